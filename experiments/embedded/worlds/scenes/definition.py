"""The embedded world, the first one: 32 objects in 7 places."""

from experiments.embedded.training import CHECKPOINTS, WEIGHTS
from experiments.embedded.worlds.contract import Sizes, World
from experiments.embedded.worlds.scenes.changes import (
    OBJECT_CHANGE,
    SMALL_CHANGE,
    changed_views,
    other_scene,
)
from experiments.embedded.worlds.scenes.drawing import draw_scenes, read_scene
from experiments.embedded.worlds.scenes.world import (
    ATTRIBUTES,
    COLOURS,
    HEADGEAR,
    OBJECTS,
    PATTERNS,
    PLACES,
    SIZES,
    STYLES,
    TIMES,
)

_PHRASES = (
    *(*OBJECTS, *PLACES.values(), *TIMES.values(), *STYLES, *COLOURS, *PATTERNS, *SIZES, *HEADGEAR),
    "a an and of with in the fog",
)
WORLD = World(
    name="scenes",
    title="the embedded world",
    model="embedded",
    words=tuple(sorted({word for phrase in _PHRASES for word in phrase.split()})),
    max_length=36,  # the longest caption has 33 tokens
    labels=OBJECTS,
    things=len(OBJECTS),
    smallest=7,
    empty=False,
    settings=tuple(PLACES),
    phrases=tuple(PLACES.values()),
    attributes=ATTRIBUTES,
    slots=2,
    subjects=2,
    mirrored=True,
    judged_all=False,
    draw=draw_scenes,
    read=read_scene,
    other=other_scene,
    views=changed_views,
    small_changes=SMALL_CHANGE,
    growing_changes=OBJECT_CHANGE,
    quality="experiments.embedded.worlds.scenes.quality",
    sizes=Sizes(
        vae=(32, 64, 64),
        unet=(64, 160),
        text=(128, 3, 4),
        clip_image=(16, 128),
        clip_text=(128, 3, 4),
        lpips=(16, 32, 64, 96, 96),
        judge=(48, 96, 128),
    ),
    facts={"sprites": "Noto Emoji image resources (Apache-2.0, see NOTICE)"},
    weights=WEIGHTS,
    checkpoints=CHECKPOINTS,
)
