"""The embedded world's pictures: `render(scene, layout)` paints what the caption says over what it leaves
open.

The same layout under two scenes gives a source and its ideal edit: all that the captions do not change stays.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from experiments.embedded.worlds.contract import SIDE
from experiments.embedded.worlds.scenes.backgrounds import BACKGROUNDS
from experiments.embedded.worlds.scenes.layout import Layout, place_thing
from experiments.embedded.worlds.scenes.paint import X, Y, blend
from experiments.embedded.worlds.scenes.sprites import thing_pixels
from experiments.embedded.worlds.scenes.world import Scene


@dataclass(frozen=True)
class Rendering:
    """A picture and where each thing is."""

    image: np.ndarray  # (64, 64, 3) uint8
    masks: np.ndarray  # (things, 64, 64) float32 in [0, 1]


def render(scene: Scene, layout: Layout) -> Rendering:
    """Paint a scene. Raises ValueError where the layout has fewer slots than the scene has things."""
    if len(layout.slots) < len(scene.things):
        raise ValueError(f"layout: {len(layout.slots)} slots for {len(scene.things)} things")
    place = scene.place or layout.place
    canvas = BACKGROUNDS[place](layout, scene.time)
    masks = np.zeros((len(scene.things), SIDE, SIDE), np.float32)
    boxes = [
        place_thing(thing, slot, layout) for thing, slot in zip(scene.things, layout.slots, strict=False)
    ]
    order = np.argsort([box[1] + box[2] / 2 for box in boxes])  # what stands lower is nearer
    for i in order:
        thing, slot, (x, y, diameter) = scene.things[i], layout.slots[i], boxes[i]
        blend(
            canvas,
            np.exp(-(((X - x) / (0.42 * diameter)) ** 4) - ((Y - y - 0.47 * diameter) / 2.2) ** 4) * 0.35,
            (20, 20, 40),
        )
        rgb, alpha = thing_pixels(thing, slot, x, y, diameter, layout.strength)
        canvas += (rgb - canvas) * alpha[..., None]
        masks *= 1 - alpha
        masks[i] = alpha
    canvas = _time_of_day(canvas, scene.time, layout.strength)
    if scene.fog:
        density = (0.5 + 0.3 * layout.strength) * (0.65 + 0.35 * Y / SIDE)
        blend(canvas, density, (205, 210, 216) if scene.time != "night" else (95, 100, 115))
    return Rendering(_style(np.clip(canvas, 0, 255), scene.style), masks)


def _time_of_day(canvas: np.ndarray, time: str, strength: float) -> np.ndarray:
    if time == "night":
        return canvas * (1 - (0.2 + 0.25 * strength) * (1 - np.array([0.35, 0.45, 0.85], np.float32)) / 0.65)
    if time == "sunset":
        return canvas * (1 - (0.3 + 0.3 * strength) * (1 - np.array([1.1, 0.75, 0.5], np.float32)))
    return canvas


def _style(canvas: np.ndarray, style: str) -> np.ndarray:
    image = Image.fromarray(canvas.astype(np.uint8))
    if style == "sketch":
        grey = np.asarray(image.convert("L").filter(ImageFilter.GaussianBlur(0.6)), np.float32)
        slope = np.hypot(*np.gradient(grey))
        ink = np.clip(1 - slope / 28, 0, 1) * (0.86 + 0.14 * grey / 255)
        return (ink[..., None] * np.array([250, 246, 236])).astype(np.uint8)
    if style == "watercolor":
        soft = np.asarray(image.filter(ImageFilter.GaussianBlur(0.8)), np.float32)
        return np.clip(
            soft * 0.75 + np.array([70, 68, 64]) - 6 * np.sin(X / 5 + Y / 7)[..., None], 0, 255
        ).astype(np.uint8)
    if style == "pixel art":
        blocks = image.resize((32, 32), Image.Resampling.BOX).resize((64, 64), Image.Resampling.NEAREST)
        return (np.round(np.asarray(blocks, np.float32) / 36.4) * 36.4).clip(0, 255).astype(np.uint8)
    if style == "black and white photo":
        grey = np.asarray(image.convert("L"), np.float32)
        return np.repeat(np.clip((grey - 128) * 1.15 + 128, 0, 255)[..., None], 3, -1).astype(np.uint8)
    return np.asarray(image)
