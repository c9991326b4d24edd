"""The embedded world's pictures: `render(scene, layout)` paints what the caption says over what it leaves
open.

The same layout under two scenes gives a source and its ideal edit: all that the captions do not change stays.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from experiments.embedded.world import HEADGEAR, OBJECTS, PLACES, Scene, Thing

SIDE = 64
_Y, _X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
_RGB = {
    "red": (225, 40, 40),
    "blue": (45, 95, 235),
    "green": (45, 170, 60),
    "yellow": (250, 215, 40),
    "purple": (150, 60, 200),
}
_DIAMETER = {  # pixels, (smallest, largest), for a thing alone and for one of two
    "": ((24, 42), (22, 29)),
    "big": ((38, 48), (28, 32)),
    "small": ((20, 25), (19, 22)),
}


@dataclass(frozen=True)
class Slot:
    """Where a thing stands: all in [0, 1] but `angle` in degrees."""

    x: float
    y: float
    size: float
    mirror: bool
    angle: float


@dataclass(frozen=True)
class Layout:
    """All that a caption leaves open. Floats are in [0, 1]; lists hold more than a scene may use."""

    place: str  # used where the caption names none
    horizon: float
    sky: tuple[float, float]  # hue, brightness
    ground: tuple[float, float]
    variant: float  # which version of the place: plain or striped wall, low or high hills, ...
    sun: tuple[float, float]
    clouds: tuple[tuple[float, float, float], ...]  # x, y, size
    marks: tuple[tuple[float, float, float], ...]  # x, y, size of stars, bubbles, trees, tufts
    blocks: tuple[tuple[float, float, float], ...]  # width, height, shade of houses and hills
    slots: tuple[Slot, ...]  # one per thing
    strength: float  # of colours, patterns, fog and time of day: 0 weak, 1 full


@dataclass(frozen=True)
class Rendering:
    """A picture and where each thing is."""

    image: np.ndarray  # (64, 64, 3) uint8
    masks: np.ndarray  # (things, 64, 64) float32 in [0, 1]


def draw_layout(rng: np.random.Generator, things: int) -> Layout:
    """Draw all that a caption leaves open, for a scene of one or two things."""

    def triples(n: int) -> tuple[tuple[float, float, float], ...]:
        return tuple((float(a), float(b), float(c)) for a, b, c in rng.random((n, 3)))

    slots = [
        Slot(float(x), float(y), float(size), bool(rng.random() < 0.5), float(rng.uniform(-12, 12)))
        for x, y, size in (rng.random(3) for _ in range(things))
    ]
    if things == 2:  # one thing in each half
        left = float(rng.random() < 0.5)
        slots = [
            replace(s, x=0.75 * side + 0.25 * s.x) for s, side in zip(slots, (left, 1 - left), strict=True)
        ]
    return Layout(
        place=str(rng.choice(tuple(PLACES))),
        horizon=float(rng.random()),
        sky=(float(rng.random()), float(rng.random())),
        ground=(float(rng.random()), float(rng.random())),
        variant=float(rng.random()),
        sun=(float(rng.random()), float(rng.random())),
        clouds=triples(int(rng.integers(0, 5))),
        marks=triples(16),
        blocks=triples(12),
        slots=tuple(slots),
        strength=float(rng.random()),
    )


def render(scene: Scene, layout: Layout) -> Rendering:
    """Paint a scene. Raises ValueError where the layout has fewer slots than the scene has things."""
    if len(layout.slots) < len(scene.things):
        raise ValueError(f"layout: {len(layout.slots)} slots for {len(scene.things)} things")
    place = scene.place or layout.place
    canvas = _BACKGROUNDS[place](layout, scene.time)
    masks = np.zeros((len(scene.things), SIDE, SIDE), np.float32)
    boxes = [
        place_thing(thing, slot, layout) for thing, slot in zip(scene.things, layout.slots, strict=False)
    ]
    order = np.argsort([box[1] + box[2] / 2 for box in boxes])  # what stands lower is nearer
    for i in order:
        thing, slot, (x, y, diameter) = scene.things[i], layout.slots[i], boxes[i]
        _blend(
            canvas,
            np.exp(-(((_X - x) / (0.42 * diameter)) ** 4) - ((_Y - y - 0.47 * diameter) / 2.2) ** 4) * 0.35,
            (20, 20, 40),
        )
        rgb, alpha = _sprite(thing, slot, x, y, diameter, layout.strength)
        canvas += (rgb - canvas) * alpha[..., None]
        masks *= 1 - alpha
        masks[i] = alpha
    canvas = _time_of_day(canvas, scene.time, layout.strength)
    if scene.fog:
        density = (0.5 + 0.3 * layout.strength) * (0.65 + 0.35 * _Y / SIDE)
        _blend(canvas, density, (205, 210, 216) if scene.time != "night" else (95, 100, 115))
    return Rendering(_style(np.clip(canvas, 0, 255), scene.style), masks)


def place_thing(thing: Thing, slot: Slot, layout: Layout) -> tuple[float, float, float]:
    """Return the centre (x, y) and diameter of a thing, in pixels."""
    low, high = _DIAMETER[thing.size][len(layout.slots) - 1]
    diameter = low + (high - low) * slot.size
    x = 1 + diameter / 2 + (SIDE - 2 - diameter) * slot.x
    bottom = _horizon(layout) + 3 + (SIDE - 5 - _horizon(layout)) * slot.y
    return x, max(bottom - diameter / 2, 1 + diameter / 2), diameter


def _horizon(layout: Layout) -> float:
    return 26 + 20 * layout.horizon


def _blend(canvas: np.ndarray, alpha: np.ndarray, rgb: tuple[float, ...]) -> None:
    canvas += (np.asarray(rgb, np.float32) - canvas) * alpha[..., None].astype(np.float32)


def _edge(distance: np.ndarray) -> np.ndarray:
    """Return an anti-aliased mask: 1 where the distance is positive."""
    return np.clip(distance + 0.5, 0, 1)


def _mix(a: tuple[float, ...], b: tuple[float, ...], t: float) -> tuple[float, ...]:
    return tuple(x + (y - x) * t for x, y in zip(a, b, strict=True))


def _vertical(top: tuple[float, ...], bottom: tuple[float, ...], end: float) -> np.ndarray:
    t = np.clip(_Y / end, 0, 1)[..., None]
    return np.asarray(top, np.float32) * (1 - t) + np.asarray(bottom, np.float32) * t


def _sky(layout: Layout, time: str) -> np.ndarray:
    hue, light = layout.sky
    if time == "night":
        canvas = _vertical(
            _mix((10, 12, 45), (35, 15, 70), hue), _mix((35, 45, 110), (70, 50, 120), light), _horizon(layout)
        )
        for x, y, size in layout.marks:
            _blend(
                canvas, _edge(0.4 + 0.7 * size - np.hypot(_X - SIDE * x, _Y - 30 * y)) * 0.9, (250, 250, 220)
            )
    elif time == "sunset":
        canvas = _vertical(
            _mix((95, 50, 130), (200, 80, 90), hue),
            _mix((255, 150, 60), (255, 200, 110), light),
            _horizon(layout),
        )
    else:
        canvas = _vertical(
            _mix((60, 130, 235), (90, 195, 235), hue),
            _mix((170, 215, 250), (235, 240, 245), light),
            _horizon(layout),
        )
    x, y = 6 + 52 * layout.sun[0], 6 + 12 * layout.sun[1]
    if time == "night":
        disc = np.hypot(_X - x, _Y - y)
        crescent = np.clip(_edge(5 - disc) - _edge(4.5 - np.hypot(_X - x - 2.5, _Y - y + 1)), 0, 1)
        _blend(canvas, crescent, (250, 240, 190))
    elif time == "sunset":
        y = _horizon(layout) - 7 * layout.sun[1]
        _blend(canvas, _edge(6 - np.hypot(_X - x, _Y - y)), (255, 235, 140))
    elif layout.sun[1] < 0.5:
        _blend(canvas, _edge(4.5 - np.hypot(_X - x, _Y - y)), (255, 240, 130))
    white = {"night": (60, 60, 100), "sunset": (255, 190, 170)}.get(time, (255, 255, 255))
    for x, y, size in layout.clouds:
        radius = 3 + 4 * size
        puffs = [np.hypot((_X - SIDE * x - dx * radius) / 1.5, _Y - 3 - 20 * y) for dx in (-1.2, 0, 1.3)]
        _blend(
            canvas,
            0.85 * np.max([_edge(radius * k - p) for p, k in zip(puffs, (0.6, 1, 0.7), strict=True)], 0),
            white,
        )
    return canvas


def _hills(layout: Layout, amplitude: float) -> np.ndarray:
    """Return the wavy height of the horizon for each column, as a (64, 64) map of y."""
    (a, b, c), (d, e, _) = layout.blocks[:2]
    wave = np.sin(_X * (0.05 + 0.08 * a) + 6.28 * b) + 0.6 * np.sin(_X * (0.12 + 0.1 * c) + 6.28 * d)
    return _horizon(layout) + amplitude * (0.4 + e) * wave


def _ground(
    canvas: np.ndarray, top: np.ndarray | float, near: tuple[float, ...], far: tuple[float, ...]
) -> None:
    colours = _vertical(far, near, SIDE)
    canvas += (colours - canvas) * _edge(_Y - top)[..., None]


def _beach(layout: Layout, time: str) -> np.ndarray:
    canvas = _sky(layout, time)
    hue, light = layout.ground
    sea = _mix((20, 90, 175), (40, 175, 190), layout.variant)
    _ground(canvas, _horizon(layout) - 7, _mix(sea, (255, 255, 255), 0.2), sea)
    shore = (
        _horizon(layout) + 2 + 5 * light + 1.2 * np.sin(_X * (0.1 + 0.2 * layout.blocks[0][0]) + 6.28 * hue)
    )
    _ground(canvas, shore - 1.5, (245, 250, 250), (245, 250, 250))
    sand = _mix((225, 190, 120), (245, 225, 165), hue)
    _ground(canvas, shore, _mix(sand, (255, 235, 190), light), sand)
    return canvas


def _snow(layout: Layout, time: str) -> np.ndarray:
    canvas = _sky(layout, time)
    hue, light = layout.ground
    for x, y, size in layout.marks[: int(8 * layout.variant)]:
        width, foot = 2.5 + 3 * size, _horizon(layout) + 1 + 3 * y
        height = 3.2 * width
        inside = np.minimum(_Y - foot + height, foot - _Y)
        _blend(
            canvas,
            _edge(np.minimum(inside, (_Y - foot + height) * width / height - np.abs(_X - SIDE * x))),
            _mix((25, 80, 60), (60, 110, 80), y),
        )
    _ground(
        canvas,
        _hills(layout, 1.5),
        _mix((250, 250, 255), (225, 235, 250), hue),
        _mix((215, 228, 245), (240, 244, 250), light),
    )
    return canvas


def _field(layout: Layout, time: str) -> np.ndarray:
    canvas = _sky(layout, time)
    hue, light = layout.ground
    green = _mix((60, 140, 50), (140, 180, 50), hue)
    if layout.variant > 0.4:
        _ground(canvas, _hills(layout, 4) - 3, _mix(green, (30, 90, 90), 0.4), _mix(green, (30, 90, 90), 0.5))
    _ground(
        canvas, _hills(layout, 1), _mix(green, (200, 220, 90), 0.4 * light), _mix(green, (20, 70, 30), 0.3)
    )
    for x, y, size in layout.marks[: int(10 * light)]:
        cy = _horizon(layout) + 4 + (SIDE - _horizon(layout)) * y
        _blend(
            canvas,
            _edge(1.0 + size - np.hypot(_X - SIDE * x, _Y - cy)),
            _mix((255, 250, 235), (250, 190, 80), hue),
        )
    return canvas


def _desert(layout: Layout, time: str) -> np.ndarray:
    canvas = _sky(layout, time)
    hue, light = layout.ground
    sand = _mix((215, 150, 80), (235, 190, 110), hue)
    if layout.variant > 0.5:  # table mountains behind
        for width, height, at in layout.blocks[4:7]:
            inside = np.minimum(
                7 + 8 * width - np.abs(_X - SIDE * at), _Y - _horizon(layout) + 4 + 10 * height
            )
            _blend(canvas, _edge(inside), _mix((175, 90, 60), (200, 120, 80), light))
    _ground(canvas, _hills(layout, 3.5) - 1, _mix(sand, (120, 60, 30), 0.15), _mix(sand, (120, 60, 30), 0.25))
    _ground(canvas, _hills(layout, 2) + 5 + 5 * light, _mix(sand, (255, 230, 170), 0.3 * light), sand)
    return canvas


def _city(layout: Layout, time: str) -> np.ndarray:
    canvas = _sky(layout, time)
    hue, light = layout.ground
    draw_on = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    draw, x, base = ImageDraw.Draw(draw_on), -3.0, _horizon(layout)
    lit = (250, 220, 120) if time == "night" else (215, 230, 240)
    for width, height, shade in layout.blocks:
        w, top = 8 + 7 * width, base - 8 - 18 * height
        colour = _mix(_mix((95, 95, 115), (170, 130, 110), hue), (200, 195, 195), shade * 0.8)
        draw.rectangle((x, top, x + w - 1, base + 2), fill=tuple(map(int, colour)))
        if layout.variant > 0.3:
            for row in range(int(top) + 2, int(base) - 2, 4):
                for column in range(int(x) + 2, int(x + w) - 3, 4):
                    draw.rectangle((column, row, column + 1, row + 1), fill=lit)
        x += w
    canvas = np.asarray(draw_on, np.float32).copy()
    _ground(
        canvas,
        base,
        _mix((85, 85, 92), (130, 125, 125), light),
        _mix((120, 120, 125), (160, 155, 150), light),
    )
    lane = _horizon(layout) + (SIDE - _horizon(layout)) * (0.45 + 0.3 * hue)
    dashes = np.minimum(0.9 - np.abs(_Y - lane), 3 - np.abs((_X + 14 * layout.blocks[0][0]) % 14 - 7))
    _blend(canvas, _edge(dashes), (235, 230, 200))
    return canvas


def _room(layout: Layout, time: str) -> np.ndarray:
    hue, light = layout.sky
    phases = 2 * np.pi * (hue + np.array([0, 1 / 3, 2 / 3]))
    wall = 190 + 20 * light + 40 * np.cos(phases)
    canvas = np.tile(wall.astype(np.float32), (SIDE, SIDE, 1))
    if layout.variant < 0.35:
        period = 8 + 6 * layout.blocks[0][0]
        _blend(canvas, _edge(np.abs((_X % period) - period / 2) - period / 4) * 0.25, (255, 255, 255))
    elif layout.variant < 0.75:  # a window, or a picture
        x, y = 14 + 36 * layout.sun[0], 10 + 4 * layout.sun[1]
        inside = np.minimum(9 - np.abs(_X - x), 7 - np.abs(_Y - y))
        _blend(canvas, _edge(inside), (245, 240, 230))
        view = {"night": (30, 35, 90), "sunset": (250, 150, 80)}.get(time, (150, 205, 245))
        _blend(canvas, _edge(np.minimum(inside - 1.5, np.abs(_X - x) - 0.7)), view)
    floor = _mix((110, 65, 40), (190, 140, 95), layout.ground[0])
    _ground(canvas, _horizon(layout) - 1.5, (240, 235, 230), (240, 235, 230))
    _ground(
        canvas,
        _horizon(layout),
        _mix(floor, (255, 220, 180), 0.2 * layout.ground[1]),
        _mix(floor, (40, 20, 10), 0.2),
    )
    return canvas


def _under_water(layout: Layout, time: str) -> np.ndarray:
    hue, light = layout.sky
    canvas = _vertical(
        _mix((40, 130, 220), (60, 190, 190), hue), _mix((10, 50, 120), (10, 90, 110), light), SIDE
    )
    if layout.variant > 0.4:  # rays of light
        rays = np.sin((_X + 0.6 * _Y) * (0.12 + 0.12 * layout.blocks[0][0]) + 6.28 * layout.sun[0])
        _blend(canvas, np.clip(rays, 0, 1) * np.clip(1 - _Y / 50, 0, 1) * 0.3, (220, 245, 255))
    for x, _, size in layout.marks[10 : 10 + int(5 * layout.variant)]:
        sway = SIDE * x + 1.8 * np.sin(_Y * 0.3 + 6 * size)
        stem = np.minimum(1.6 - np.abs(_X - sway), _Y - 34 - 20 * size)
        _blend(canvas, _edge(stem), _mix((20, 110, 70), (60, 150, 60), size))
    floor = _mix((190, 170, 120), (120, 130, 130), layout.ground[0])
    _ground(
        canvas,
        _hills(layout, 1) * 0.3 + 0.7 * 56 - 6 * layout.ground[1],
        floor,
        _mix(floor, (20, 60, 120), 0.4),
    )
    for x, y, size in layout.marks[: int(10 * light)]:
        distance, radius = np.hypot(_X - SIDE * x, _Y - 50 * y), 1 + 2 * size
        _blend(
            canvas,
            _edge(radius - distance) * 0.35 + _edge(0.8 - np.abs(distance - radius)) * 0.5,
            (225, 245, 255),
        )
    return canvas


_BACKGROUNDS = {
    "beach": _beach,
    "snow": _snow,
    "field": _field,
    "desert": _desert,
    "city": _city,
    "room": _room,
    "under water": _under_water,
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


def _sprite(
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
        u, v = (_X - x) / diameter, (_Y - y) / diameter
        if thing.pattern == "striped":
            marks = _edge((np.abs(((u + v) * 4.5) % 1 - 0.5) - 0.25) * diameter / 4.5)
        else:
            marks = _edge((0.28 - np.hypot((u * 4) % 1 - 0.5, (v * 4) % 1 - 0.5)) * diameter / 4)
        dark = (rgb.mean(-1, keepdims=True) < 110) * 255.0
        rgb = rgb + (dark - rgb) * (marks * (0.5 + 0.3 * strength))[..., None]
    return rgb, alpha


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
            soft * 0.75 + np.array([70, 68, 64]) - 6 * np.sin(_X / 5 + _Y / 7)[..., None], 0, 255
        ).astype(np.uint8)
    if style == "pixel art":
        blocks = image.resize((32, 32), Image.Resampling.BOX).resize((64, 64), Image.Resampling.NEAREST)
        return (np.round(np.asarray(blocks, np.float32) / 36.4) * 36.4).clip(0, 255).astype(np.uint8)
    if style == "black and white photo":
        grey = np.asarray(image.convert("L"), np.float32)
        return np.repeat(np.clip((grey - 128) * 1.15 + 128, 0, 255)[..., None], 3, -1).astype(np.uint8)
    return np.asarray(image)
