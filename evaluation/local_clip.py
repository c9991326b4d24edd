"""CLIP's directional similarity (Gal et al. 2022) inside the mask: only the part that was to change counts.

The part is cut out by a box, as the local CLIP score of InstanceDiffusion (Wang et al. 2024,
`eval_attribute_binding.py`) cuts it, not blackened as PIE-Bench's: CLIP has seen few pictures with holes.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from evaluation.clip import Clip, cosine, no_direction
from evaluation.edits import Edits
from evaluation.metric import Scores, first_reasons
from evaluation.pie import EMPTY, mask_reasons, missing

Box = tuple[int, int, int, int]  # top, bottom, left, right of a part of an image; ends are not in it


class LocalClip:
    """Compare the change of the image inside the mask with the change of the prompt: a cosine in [-1, 1].

    Edit and source are cut to one box, the smallest square that holds the mask's, moved into the picture. It
    is a square because CLIP's own preprocessing cuts the ends off a long box; where the picture is too narrow
    for the square, the box has the picture's width or height. What lies in the box but outside the mask is
    seen, too. With a mask that covers the whole image the value is `clip_directional`'s.

    Missing without a mask, where the mask is empty, where the prompts or the parts are equal, and where a
    prompt does not fit the model. Arguments are those of `evaluation.clip.Clip`.
    """

    def __init__(
        self,
        backbone: str,
        pretrained: str | None = None,
        folder: str | Path | None = None,
        device: str = "cpu",
        batch_size: int = 64,
    ) -> None:
        self.clip = Clip(backbone, pretrained, folder, device, batch_size)
        self.folder, self.device = self.clip.folder, device
        label = self.clip.name.removeprefix("clip_")
        self.name = f"clip_local_{label}"
        self.clip.name = self.name
        self.names = (f"clip_local_directional_{label}",)
        self.higher_is_better: Mapping[str, bool] = {self.names[0]: True}

    def check(self) -> None:
        """Raise in one line if the model is unknown or its weights cannot be had."""
        self.clip.check()

    def load(self) -> None:
        """Load the weights now rather than at the first call."""
        self.clip.load()

    def __call__(self, edits: Edits) -> dict[str, Scores]:
        """Score every edit; each source is encoded once per box of its edits."""
        reasons = mask_reasons(edits, EMPTY)
        if all(reasons):
            return {self.names[0]: missing(reasons)}
        assert edits.masks is not None
        boxes = [_box(mask[0] > 0) for mask in edits.masks]
        parts = [_cut(image, box) for image, box in zip(edits.images, boxes, strict=True)]
        places = list(zip(edits.source_index.tolist(), boxes, strict=True))
        row = {place: index for index, place in enumerate(dict.fromkeys(places))}
        source_parts = [_cut(edits.source_images[source], box) for source, box in row]
        of_edit = [row[place] for place in places]
        same = [torch.equal(part, source_parts[index]) for part, index in zip(parts, of_edit, strict=True)]
        encoder = self.clip.encoder
        prompts = encoder.prompts(edits.source_prompts + edits.target_prompts)
        source_text, target_text = prompts.split(len(edits))
        image_change = encoder.images(parts) - encoder.images(source_parts)[of_edit]
        text_change = target_text - source_text
        undefined = first_reasons(
            reasons,
            encoder.too_long(source_text, "source prompt"),
            encoder.too_long(target_text, "target prompt"),
            no_direction(torch.tensor(same), image_change, text_change),
        )
        return {self.names[0]: Scores.of(cosine(image_change, text_change), undefined)}


def _box(mask: Tensor) -> Box:
    """Return the square that holds a mask (H, W); all of the image where the mask is empty."""
    height, width = mask.shape
    if not mask.any():
        return 0, height, 0, width
    top, bottom = mask.any(dim=1).nonzero().flatten()[[0, -1]].tolist()
    left, right = mask.any(dim=0).nonzero().flatten()[[0, -1]].tolist()
    side = max(bottom - top, right - left) + 1
    return *_span(top, bottom, side, height), *_span(left, right, side, width)


def _span(first: int, last: int, side: int, limit: int) -> tuple[int, int]:
    """Return where `side` places around the first and the last begin and end, within 0 to `limit`."""
    side = min(side, limit)
    start = min(max((first + last + 1 - side) // 2, 0), limit - side)
    return start, start + side


def _cut(image: Tensor, box: Box) -> Tensor:
    top, bottom, left, right = box
    return image[:, top:bottom, left:right]
