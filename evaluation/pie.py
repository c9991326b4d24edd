"""The columns of PIE-Bench besides structure distance (Ju et al. 2024; their `matrics_calculator.py`).

An image's part is the whole image with all else black, and nothing is divided by the part's area: a larger
mask makes the unedited part look better. Values are unscaled, one per image; a table is their mean.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from evaluation.batches import in_batches
from evaluation.clip_hub import check_hub, check_hub_folder, load_hub
from evaluation.edits import Edits
from evaluation.encoder import (
    CONFIG,
    Encoder,
    check_folder,
    check_pretrained,
    load_folder,
    load_pretrained,
)
from evaluation.metric import Scores, first_reasons
from evaluation.perceptual import Lpips
from evaluation.pixel import SMALLEST_SIDE, mse, psnr, ssim
from evaluation.weights import weights_folder

PUBLISHED = "openai/clip-vit-large-patch14"
NO_MASK, WHOLE, EMPTY = "no mask", "mask covers the whole image", "mask is empty"


class UneditedPixel:
    """Compare the parts outside the masks pixel by pixel and window by window: PSNR (dB), MSE, SSIM.

    SSIM leaves the border out, as torchmetrics did when the published numbers were computed.

    Missing without a mask or where the mask covers the whole image; PSNR also where the parts are identical,
    as it would be infinite and so would every mean.
    """

    def __init__(self, device: str = "cpu", batch_size: int = 8) -> None:
        self.device, self.batch_size = device, batch_size
        self.name = "pie/pixel_unedit@3"
        self.names = ("pie/psnr_unedit@1", "pie/mse_unedit@1", "pie/ssim_unedit@3")
        self.higher_is_better: Mapping[str, bool] = dict(zip(self.names, (True, False, True), strict=True))

    def check(self) -> None:
        """Do nothing: there are no weights."""

    @torch.inference_mode()
    def __call__(self, edits: Edits) -> dict[str, Scores]:
        """Score every edit. Raises ValueError for images smaller than one SSIM window."""
        side = min(edits.images.shape[-2:])
        if side < SMALLEST_SIDE:
            raise ValueError(f"{self.name}: images have a side of {side}; allowed: at least {SMALLEST_SIDE}")
        reasons = mask_reasons(edits, WHOLE)
        errors, likeness = torch.full((2, len(edits)), torch.nan, dtype=torch.float64)
        if edits.masks is not None:
            masks = edits.masks

            def compare(rows: Tensor) -> Tensor:
                kept = (1 - masks[rows].float()).to(self.device)
                source = edits.source_images[edits.source_index[rows]].to(self.device) * kept
                image = edits.images[rows].to(self.device) * kept
                return torch.stack([mse(source, image), ssim(source, image)], dim=1).cpu()

            errors, likeness = in_batches(compare, torch.arange(len(edits)), self.batch_size).T
        identical = tuple(
            reason or ("identical outside the mask" if error == 0 else "")
            for reason, error in zip(reasons, errors.tolist(), strict=True)
        )
        columns = (
            Scores.of(psnr(errors), identical),
            Scores.of(errors, reasons),
            Scores.of(likeness, reasons),
        )
        return dict(zip(self.names, columns, strict=True))


class UneditedLpips:
    """Measure the perceptual distance of the parts outside the masks; masked pixels are black, -1 to LPIPS.

    The published column has `net` "squeeze" and `pretrained` "imagenet"; `evaluation.perceptual.Lpips` takes
    equal arguments. An image without a mask, or with a mask that covers it wholly, has no value.
    """

    def __init__(
        self,
        net: str,
        pretrained: str | None = None,
        folder: str | Path | None = None,
        device: str = "cpu",
        batch_size: int = 16,
    ) -> None:
        self.lpips = Lpips(net, pretrained, folder, device, batch_size)
        self.folder, self.device = self.lpips.folder, device
        self.name = f"pie/{self.lpips.name.removesuffix('@1')}_unedit@1"
        self.lpips.name = self.name
        self.names = (self.name,)
        self.higher_is_better: Mapping[str, bool] = {self.name: False}

    def check(self) -> None:
        """Raise in one line if the weights cannot be had."""
        self.lpips.check()

    def load(self) -> None:
        """Load the weights now rather than at the first call."""
        self.lpips.load()

    def __call__(self, edits: Edits) -> dict[str, Scores]:
        """Score every edit; each source is looked at once per batch of its edits with the same mask."""
        reasons = mask_reasons(edits, WHOLE)
        if edits.masks is None:
            return {self.name: missing(reasons)}
        (scores,) = self.lpips(_unedited(edits, edits.masks)).values()
        return {self.name: Scores.of(scores.values, reasons)}


class PieClip:
    """Compare images with their prompts: CLIPScore (Hessel et al. 2021), 100 max(cosine, 0).

    Columns, each in [0, 100]:
      clip_similarity_source_image            source image and source prompt: no method changes it
      clip_similarity_target_image            edited image and target prompt
      clip_similarity_target_image_edit_part  edited image, black outside the mask, and the whole target
                                              prompt; missing without a mask or where the mask is empty

    `backbone` alone is a Hugging Face repository that transformers loads, by default the published one; with
    a `pretrained` tag it is an open_clip model ("random": seeded random weights), with a `folder` any name
    for the model in it, as open_clip or transformers saves it. Other backbones than the published one end
    the columns' names. What needs a prompt of more tokens than the model has places for is missing:
    torchmetrics would cut it.
    """

    def __init__(
        self,
        backbone: str = PUBLISHED,
        pretrained: str | None = None,
        folder: str | Path | None = None,
        device: str = "cpu",
        batch_size: int = 64,
    ) -> None:
        if pretrained is not None and folder is not None:
            raise ValueError(
                f"pretrained is {pretrained!r} and folder {folder!r}; allowed: one of them at most"
            )
        self.backbone, self.pretrained = backbone, pretrained
        self.folder = None if folder is None else weights_folder(folder)
        self.device, self.batch_size = device, batch_size
        label = re.sub(r"[^\w.-]+", "-", backbone if pretrained is None else f"{backbone}_{pretrained}")
        end = "@1" if backbone == PUBLISHED and pretrained is None else f"_{label}@1"
        self.name = f"pie/clip_similarity{end}"
        self.names = tuple(
            f"{self.name.removesuffix(end)}_{part}{end}"
            for part in ("source_image", "target_image", "target_image_edit_part")
        )
        self.higher_is_better: Mapping[str, bool] = dict.fromkeys(self.names[1:], True)

    def check(self) -> None:
        """Raise in one line if the model is unknown or its weights cannot be had."""
        if self.folder is None and self.pretrained is None:
            check_hub(self.name, self.backbone)
        elif self.folder is None:
            check_pretrained(self.name, self.backbone, str(self.pretrained))
        elif (self.folder / CONFIG).exists():
            check_folder(self.name, self.folder)
        else:
            check_hub_folder(self.name, self.folder)

    def load(self) -> None:
        """Load the weights now rather than at the first call."""
        self.encoder  # noqa: B018

    @cached_property
    def encoder(self) -> Encoder:
        """The loaded model."""
        self.check()
        if self.pretrained is not None:
            return load_pretrained(self.backbone, self.pretrained, self.device, self.batch_size)
        if self.folder is not None and (self.folder / CONFIG).exists():
            return load_folder(self.folder, self.device, self.batch_size)
        return load_hub(self.folder or self.backbone, self.device, self.batch_size)

    def __call__(self, edits: Edits) -> dict[str, Scores]:
        """Score every edit; each source image and each distinct prompt is encoded once."""
        prompts = self.encoder.prompts(edits.source_prompts + edits.target_prompts)
        source_text, target_text = prompts.split(len(edits))
        source = self.encoder.images(edits.source_images)[edits.source_index]
        image = self.encoder.images(edits.images)
        no_source = self.encoder.too_long(source_text, "source prompt")
        no_target = self.encoder.too_long(target_text, "target prompt")
        columns = [
            Scores.of(_clip_score(source, source_text), no_source),
            Scores.of(_clip_score(image, target_text), no_target),
        ]
        reasons = first_reasons(mask_reasons(edits, EMPTY), no_target)
        if edits.masks is None:
            columns.append(missing(reasons))
        else:
            part = self.encoder.images(edits.images * edits.masks)
            columns.append(Scores.of(_clip_score(part, target_text), reasons))
        return dict(zip(self.names, columns, strict=True))


def _clip_score(image: Tensor, text: Tensor) -> Tensor:
    return 100 * (image * text).sum(dim=-1).clamp(min=0)


def mask_reasons(edits: Edits, useless: str) -> tuple[str, ...]:
    """Say why there is no value: no mask, or one that is `useless`, all 1 (WHOLE) or all 0 (EMPTY)."""
    if edits.masks is None:
        return (NO_MASK,) * len(edits)
    value = useless == WHOLE
    return tuple(useless if whole else "" for whole in (edits.masks == value).flatten(1).all(dim=1).tolist())


def missing(reasons: tuple[str, ...]) -> Scores:
    """Return a column without values."""
    return Scores.of(torch.zeros(len(reasons)), reasons)


def _unedited(edits: Edits, masks: Tensor) -> Edits:
    """Black out the area to edit in every image and its source; each distinct source and mask stands once."""
    index: dict[tuple[int, bytes], int] = {}
    first, source_index = [], []
    for row, source in enumerate(edits.source_index.tolist()):
        key = source, masks[row].bool().numpy().tobytes()
        if key not in index:
            index[key] = len(index)
            first.append(row)
        source_index.append(index[key])
    kept = 1 - masks.float()
    return replace(
        edits,
        images=edits.images * kept,
        source_images=edits.source_images[edits.source_index[first]] * kept[first],
        source_index=torch.tensor(source_index),
    )
