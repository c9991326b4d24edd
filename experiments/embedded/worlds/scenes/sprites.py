"""The things of the embedded world: sprites, dressed, coloured and patterned as the caption says."""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.embedded.worlds.contract import SIDE
from experiments.embedded.worlds.scenes.layout import Slot
from experiments.embedded.worlds.scenes.paint import X, Y, edge
from experiments.embedded.worlds.scenes.world import HEADGEAR, OBJECTS, Thing

_RGB = {
    "red": (225, 40, 40),
    "blue": (45, 95, 235),
    "green": (45, 170, 60),
    "yellow": (250, 215, 40),
    "purple": (150, 60, 200),
}


@cache
def _atlas() -> dict[str, Image.Image]:
    names = (*OBJECTS, *HEADGEAR)
    atlas = Image.open(Path(__file__).with_name("sprites.png")).convert("RGBA")
    return {name: atlas.crop((64 * i, 0, 64 * i + 64, 64)) for i, name in enumerate(names)}


@cache
def _dressed(name: str, wearing: str) -> Image.Image:
    """Return the sprite on a 64-pixel canvas, with what it wears on its top."""
    sprite = _atlas()[name]
    if not wearing:
        return sprite
    canvas = Image.new("RGBA", (64, 96))
    canvas.paste(sprite, (0, 32))
    left, top, right, _ = sprite.getbbox() or (0, 0, 64, 64)
    hat = _atlas()[wearing].resize((38, 38), Image.Resampling.LANCZOS)
    alpha = np.asarray(sprite)[top : top + 6, :, 3].max(0)
    centre = (
        int(np.average(np.arange(64), weights=alpha.astype(float) + 1e-3))
        if alpha.any()
        else (left + right) // 2
    )
    canvas.alpha_composite(hat, (min(max(centre - 19, 0), 26), max(32 + top - 27, 0)))
    return canvas


def thing_pixels(
    thing: Thing, slot: Slot, x: float, y: float, diameter: float, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return colours (64, 64, 3) and alpha (64, 64) of a thing at its place in the picture."""
    sprite = _dressed(thing.name, thing.wearing)
    if slot.mirror:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    foot = sprite.height - 32  # the middle of the object itself
    sprite = sprite.rotate(slot.angle, Image.Resampling.BICUBIC, center=(32, foot))
    scale = diameter / 64
    small = sprite.convert("RGBa").resize(
        (round(64 * scale), round(sprite.height * scale)), Image.Resampling.BILINEAR
    )
    pasted = Image.new("RGBa", (SIDE, SIDE))
    pasted.paste(small, (round(x - diameter / 2), round(y + diameter / 2 - small.height)))
    pixels = np.asarray(pasted, np.float32)
    alpha = pixels[..., 3] / 255
    rgb = pixels[..., :3] / np.maximum(alpha, 1e-3)[..., None]
    if thing.colour:
        light = (rgb @ np.array([0.3, 0.59, 0.11], np.float32))[..., None] / 255
        target = np.asarray(_RGB[thing.colour], np.float32)
        tinted = np.where(light < 0.6, target * (light / 0.6), target + (255 - target) * (light - 0.6))
        rgb = rgb + (tinted - rgb) * (0.6 + 0.4 * strength)
    if thing.pattern:
        u, v = (X - x) / diameter, (Y - y) / diameter
        if thing.pattern == "striped":
            marks = edge((np.abs(((u + v) * 4.5) % 1 - 0.5) - 0.25) * diameter / 4.5)
        else:
            marks = edge((0.28 - np.hypot((u * 4) % 1 - 0.5, (v * 4) % 1 - 0.5)) * diameter / 4)
        dark = (rgb.mean(-1, keepdims=True) < 110) * 255.0
        rgb = rgb + (dark - rgb) * (marks * (0.5 + 0.3 * strength))[..., None]
    return rgb, alpha
