"""PickScore (Kirstain et al. 2023): how a CLIP trained on people's choices likes an image for its prompt.

The model card's code, through transformers; the published weights themselves were never run by this project.
"""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from evaluation.clip_hub import PREPROCESSING, check_hub, check_hub_folder, load_hub
from evaluation.edits import Edits
from evaluation.encoder import Encoder
from evaluation.metric import Scores
from evaluation.weights import Pinned, require_hub, weights_folder

PUBLISHED = "PickScore_v1"
_MODEL = Pinned("yuvalkirstain/PickScore_v1", "a4e4367c6dfa7288a00c550414478f865b875800")
# The card takes images and prompts as the model does that PickScore was trained from.
_PREPROCESSING = Pinned("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "1c2b8495b28150b8a4922ee1c8edee224c284c0c")


class PickScore:
    """Score edited images for their target prompt: the cosine times the model's scale, about 100.

    Of two images of one prompt people prefer the one with the higher score, with the probability
    1 / (1 + exp(-difference)); scores of different prompts were not trained to be compared. What has a target
    prompt of more tokens than the model has places for is missing: the card's code would cut it.

    Without a `folder` the model is the published one, at one commit (4 GB); a folder holds a CLIP as
    transformers saves it, preprocessing and tokenizer included, under a `backbone` name of its own.
    """

    def __init__(
        self,
        backbone: str = PUBLISHED,
        folder: str | Path | None = None,
        device: str = "cpu",
        batch_size: int = 32,
    ) -> None:
        if folder is None and backbone != PUBLISHED:
            raise ValueError(f"backbone is {backbone!r}; allowed: {PUBLISHED}, or any name with a folder")
        self.folder = None if folder is None else weights_folder(folder)
        self.device, self.batch_size = device, batch_size
        label = "" if backbone == PUBLISHED else "_" + re.sub(r"[^\w.-]+", "-", backbone)
        self.name = f"pickscore{label}@1"
        self.names = (self.name,)
        self.higher_is_better: Mapping[str, bool] = {self.name: True}

    def check(self) -> None:
        """Raise in one line if the weights cannot be had."""
        if self.folder is not None:
            check_hub_folder(self.name, self.folder)
        else:
            check_hub(self.name, _MODEL)
            for file in PREPROCESSING:
                require_hub(self.name, _PREPROCESSING, (file,))

    def load(self) -> None:
        """Load the weights now rather than at the first call."""
        self.encoder  # noqa: B018

    @cached_property
    def encoder(self) -> Encoder:
        """The loaded model."""
        self.check()
        if self.folder is not None:
            return load_hub(self.folder, self.device, self.batch_size)
        return load_hub(_MODEL, self.device, self.batch_size, _PREPROCESSING)

    def __call__(self, edits: Edits) -> dict[str, Scores]:
        """Score every edit; each distinct prompt is encoded once."""
        prompts = self.encoder.prompts(edits.target_prompts)
        cosines = (self.encoder.images(edits.images) * prompts).sum(dim=-1)
        too_long = self.encoder.too_long(prompts, "target prompt")
        return {self.name: Scores.of(self.encoder.model.scale * cosines, too_long)}
