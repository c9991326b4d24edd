"""What a world is: rendered, captioned scenes, and all that training and measuring need to know of them.

Whoever supplies a `World` (worlds/scenes, worlds/phantoms, your own) has the training scripts and the metrics
of experiments/embedded, unchanged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

SIDE = 64  # of every picture, in pixels


class Scene(Protocol):
    """What one caption says: a frozen dataclass of text, numbers, booleans and tuples of such dataclasses."""

    def caption(self) -> str:
        """Return the scene's only caption, of words of `World.words` alone."""

    def reserved(self) -> bool:
        """Say whether the scene is kept out of all training, so that a test prompt can be new."""

    def named(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Return words of the caption and the labels of the pixels that each is about.

        At most `World.slots` words, each once in the caption. The first `World.subjects` places are the
        things that the picture is of (a cat; a tumor): training weighs their pixels more. A place whose word
        the caption does not have holds ("", ()). Attention of a word is trained, and measured, to lie on its
        pixels.
        """

    def setting(self) -> str:
        """Return which of `World.settings` the whole picture shows, "" where the caption leaves it open."""

    def attributes(self) -> tuple[float, ...]:
        """Return 1 for each of `World.attributes` that holds, 0 if it does not, -1 where it is left open."""


@dataclass(frozen=True)
class Scenes:
    """Rendered scenes: `images` (n, 64, 64, 3) uint8, `labels` (n, 64, 64) uint8, n descriptions."""

    images: np.ndarray
    labels: np.ndarray
    scenes: tuple[Any, ...]


@dataclass(frozen=True)
class Sizes:
    """How large a world's networks are, in channels unless said otherwise."""

    vae: tuple[int, int, int]  # at 64x64, 32x32, 16x16; multiples of 8
    unet: tuple[int, int]  # at 16x16 and 8x8; multiples of 16
    text: tuple[int, int, int]  # width of the pipeline's text encoder, its layers, its heads
    clip_image: tuple[int, int]  # width of the first stage (output of the last is 32 times that), embedding
    clip_text: tuple[int, int, int]  # width, layers, heads
    lpips: tuple[int, int, int, int, int]  # at 64x64, 32x32, ... 4x4
    judge: tuple[int, int, int]  # at 32x32, 16x16, 8x8


@dataclass(frozen=True)
class World:
    """A world of rendered scenes. Functions are module-level ones: other processes are told of them.

    Seeds are sequences of integers for numpy's default_rng. `held_out` asks for reserved scenes alone, else
    none is reserved.
    """

    name: str  # what --world takes
    title: str  # for model cards, as in "the embedded world"
    model: str  # what its model is called in conf/model, and its metrics: lpips_<model>@1
    words: tuple[str, ...]  # every word that a caption can hold
    max_length: int  # tokens of the longest caption, start and end token included
    labels: tuple[str, ...]  # a pixel's label is 0 for background, 1 + index in this
    things: int  # the first of these labels are what subjects are (a lesion), the others surround (an organ)
    smallest: int  # side in pixels of the square that a thing has to fill for the judge to see it
    empty: bool  # whether a scene may show none of the things
    settings: tuple[str, ...]  # what the whole picture may show, for the judge: places, modalities, ...
    phrases: tuple[str, ...]  # how a caption says each of the settings
    attributes: tuple[str, ...]  # what the LPIPS backbone learns to read
    slots: int  # named words of a scene at most
    subjects: int  # the first of these that are the things the picture is of
    mirrored: bool  # whether a mirrored picture is as good: false where left and right are told apart
    judged_all: bool  # whether judge, CLIP and LPIPS are trained on reserved scenes too; denoisers never are
    draw: Callable[[int, Sequence[int], bool], Scenes]  # (n, seed, held_out)
    read: Callable[[dict[str, Any]], Any]  # a scene from its dataclasses.asdict as JSON gives it
    other: Callable[[Any, np.random.Generator], Any]  # a scene, not reserved, that differs by one edit
    # (n, seed, held_out) -> n pictures of each name, (n, 3, 64, 64) float32 in [0, 1]: "source"; each of
    # `small_changes` and `growing_changes`, of the source. The last of these is another scene altogether.
    views: Callable[[int, Sequence[int], bool], dict[str, Tensor]]
    small_changes: tuple[str, ...]  # what a caption leaves open moves a little
    growing_changes: tuple[str, ...]  # from near to far, for example: resized, another thing, another scene
    quality: str  # module of its own figures, GOALS and `figures(model, judge, clip)`; "": it has none
    sizes: Sizes
    facts: Mapping[str, str]  # further lines of the pipeline's model card
    weights: Path  # folder of pipeline/, clip/, lpips/, judge/ as they ship
    checkpoints: Path  # where trainings keep their state and rendered scenes
