"""CLIP similarities of an edit with its prompts and its source: raw cosines, neither scaled nor clipped.

Text-image: Radford et al. 2021. Directional: Gal et al. 2022, as Brooks et al. 2023 compute it.
"""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from torch import Tensor

from evaluation.edits import Edits
from evaluation.encoder import Encoder, check_folder, check_pretrained, load_folder, load_pretrained
from evaluation.metric import Scores, first_reasons
from evaluation.weights import weights_folder

# Float32 features of one input differ by about 1e-6 between batches: a change this short has no direction.
DIRECTION_FLOOR = 1e-5


class Clip:
    """Compare edited images with both prompts and with their source image in the space of one CLIP model.

    Columns, each a cosine in [-1, 1]:
      clip_source       edited image and source prompt
      clip_target       edited image and target prompt
      clip_directional  change of the image and change of the prompt, each a difference of unit vectors;
                        missing where the prompts or the images are equal
      clip_image        edited image and source image

    What needs a prompt that the model has too few places for is missing.

    `backbone` is an open_clip name with a `pretrained` tag ("ViT-L-14", "openai"), or any name for the model
    in `folder`. The tag "random" takes seeded random weights, to try a pipeline; the columns say so.
    """

    def __init__(
        self,
        backbone: str,
        pretrained: str | None = None,
        folder: str | Path | None = None,
        device: str = "cpu",
        batch_size: int = 64,
    ) -> None:
        if (pretrained is None) == (folder is None):
            raise ValueError(f"pretrained is {pretrained!r} and folder {folder!r}; allowed: just one of them")
        self.backbone, self.pretrained = backbone, pretrained
        self.folder = None if folder is None else weights_folder(folder)
        self.device, self.batch_size = device, batch_size
        label = re.sub(r"[^\w.-]+", "-", backbone if pretrained is None else f"{backbone}_{pretrained}")
        self.name = f"clip_{label}@1"
        self.names = tuple(f"clip_{kind}_{label}@1" for kind in ("source", "target", "directional", "image"))
        # Likeness to the source prompt is neither good nor bad in an edit: no direction.
        self.higher_is_better: Mapping[str, bool] = dict.fromkeys(self.names[1:], True)

    def check(self) -> None:
        """Raise in one line if the model is unknown or its weights cannot be had."""
        if self.folder is not None:
            check_folder(self.name, self.folder)
        elif self.pretrained is not None:
            check_pretrained(self.name, self.backbone, self.pretrained)

    def load(self) -> None:
        """Load the weights now rather than at the first call."""
        self.encoder  # noqa: B018

    @cached_property
    def encoder(self) -> Encoder:
        """The loaded model."""
        self.check()
        if self.folder is not None:
            return load_folder(self.folder, self.device, self.batch_size)
        assert self.pretrained is not None
        return load_pretrained(self.backbone, self.pretrained, self.device, self.batch_size)

    def __call__(self, edits: Edits) -> dict[str, Scores]:
        """Score every edit; each source image and each distinct prompt is encoded once."""
        prompts = self.encoder.prompts(edits.source_prompts + edits.target_prompts)
        source_text, target_text = prompts.split(len(edits))
        edit = self.encoder.images(edits.images)
        source = self.encoder.images(edits.source_images)[edits.source_index]
        text_change, image_change = target_text - source_text, edit - source
        no_source = self.encoder.too_long(source_text, "source prompt")
        no_target = self.encoder.too_long(target_text, "target prompt")
        same = (edits.images == edits.source_images[edits.source_index]).flatten(1).all(dim=1)
        undefined = first_reasons(no_source, no_target, no_direction(same, image_change, text_change))
        columns = (
            Scores.of(_dot(edit, source_text), no_source),
            Scores.of(_dot(edit, target_text), no_target),
            Scores.of(cosine(image_change, text_change), undefined),
            Scores.of(_dot(edit, source)),
        )
        return dict(zip(self.names, columns, strict=True))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=-1)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosines (N,) between the rows of two tensors (N, D)."""
    return _dot(a, b) / (a.norm(dim=-1) * b.norm(dim=-1))


def no_direction(same: Tensor, image_change: Tensor, text_change: Tensor) -> tuple[str, ...]:
    """Say of N changes (N, D) why they have no direction, "" where they have; `same` (N,): equal images."""
    same_image = same | (image_change.norm(dim=-1) < DIRECTION_FLOOR)
    same_prompt = text_change.norm(dim=-1) < DIRECTION_FLOOR
    return tuple(
        "equal prompts" if prompt else "equal images" if image else ""
        for prompt, image in zip(same_prompt.tolist(), same_image.tolist(), strict=True)
    )
