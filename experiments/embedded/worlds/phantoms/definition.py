"""The second world: phantoms of medical slices."""

from pathlib import Path

from experiments.embedded.worlds.contract import Sizes, World
from experiments.embedded.worlds.phantoms.changes import LESION_CHANGE, SMALL_CHANGE, changed_views
from experiments.embedded.worlds.phantoms.drawing import draw_phantoms, read_phantom
from experiments.embedded.worlds.phantoms.world import (
    ATTRIBUTES,
    KINDS,
    LABELS,
    MODALITIES,
    WORDS,
    other_phantom,
)

WORLD = World(
    name="phantoms",
    title="the world of medical phantoms",
    model="phantoms",
    words=WORDS,
    max_length=20,  # the longest caption has 17 tokens
    labels=LABELS,
    things=len(KINDS),
    smallest=5,
    empty=True,
    settings=MODALITIES,
    phrases=MODALITIES,
    attributes=ATTRIBUTES,
    slots=5,
    subjects=1,
    mirrored=False,
    judged_all=True,
    draw=draw_phantoms,
    read=read_phantom,
    other=other_phantom,
    views=changed_views,
    small_changes=SMALL_CHANGE,
    growing_changes=LESION_CHANGE,
    quality="experiments.embedded.worlds.phantoms.quality",
    sizes=Sizes(
        vae=(24, 40, 40),
        unet=(48, 96),
        text=(96, 2, 4),
        clip_image=(8, 64),
        clip_text=(64, 2, 4),
        lpips=(8, 16, 32, 48, 48),
        judge=(24, 48, 64),
    ),
    facts={"phantoms": "drawn by rule: no patient data, no clinical use"},
    weights=Path(__file__).parent / "weights",
    checkpoints=Path("checkpoints/phantoms"),
)
