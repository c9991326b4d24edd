"""The seven places of the embedded world, each painted as its layout says, by day, at sunset or at night."""

import numpy as np
from PIL import Image, ImageDraw

from experiments.embedded.worlds.contract import SIDE
from experiments.embedded.worlds.scenes.layout import Layout, horizon
from experiments.embedded.worlds.scenes.paint import X, Y, blend, edge, mix, vertical


def _sky(layout: Layout, time: str) -> np.ndarray:
    hue, light = layout.sky
    if time == "night":
        canvas = vertical(
            mix((10, 12, 45), (35, 15, 70), hue), mix((35, 45, 110), (70, 50, 120), light), horizon(layout)
        )
        for x, y, size in layout.marks:
            blend(canvas, edge(0.4 + 0.7 * size - np.hypot(X - SIDE * x, Y - 30 * y)) * 0.9, (250, 250, 220))
    elif time == "sunset":
        canvas = vertical(
            mix((95, 50, 130), (200, 80, 90), hue),
            mix((255, 150, 60), (255, 200, 110), light),
            horizon(layout),
        )
    else:
        canvas = vertical(
            mix((60, 130, 235), (90, 195, 235), hue),
            mix((170, 215, 250), (235, 240, 245), light),
            horizon(layout),
        )
    x, y = 6 + 52 * layout.sun[0], 6 + 12 * layout.sun[1]
    if time == "night":
        disc = np.hypot(X - x, Y - y)
        crescent = np.clip(edge(5 - disc) - edge(4.5 - np.hypot(X - x - 2.5, Y - y + 1)), 0, 1)
        blend(canvas, crescent, (250, 240, 190))
    elif time == "sunset":
        y = horizon(layout) - 7 * layout.sun[1]
        blend(canvas, edge(6 - np.hypot(X - x, Y - y)), (255, 235, 140))
    elif layout.sun[1] < 0.5:
        blend(canvas, edge(4.5 - np.hypot(X - x, Y - y)), (255, 240, 130))
    white = {"night": (60, 60, 100), "sunset": (255, 190, 170)}.get(time, (255, 255, 255))
    for x, y, size in layout.clouds:
        radius = 3 + 4 * size
        puffs = [np.hypot((X - SIDE * x - dx * radius) / 1.5, Y - 3 - 20 * y) for dx in (-1.2, 0, 1.3)]
        blend(
            canvas,
            0.85 * np.max([edge(radius * k - p) for p, k in zip(puffs, (0.6, 1, 0.7), strict=True)], 0),
            white,
        )
    return canvas


def _hills(layout: Layout, amplitude: float) -> np.ndarray:
    """Return the wavy height of the horizon for each column, as a (64, 64) map of y."""
    (a, b, c), (d, e, _) = layout.blocks[:2]
    wave = np.sin(X * (0.05 + 0.08 * a) + 6.28 * b) + 0.6 * np.sin(X * (0.12 + 0.1 * c) + 6.28 * d)
    return horizon(layout) + amplitude * (0.4 + e) * wave


def _ground(
    canvas: np.ndarray, top: np.ndarray | float, near: tuple[float, ...], far: tuple[float, ...]
) -> None:
    colours = vertical(far, near, SIDE)
    canvas += (colours - canvas) * edge(Y - top)[..., None]


def _beach(layout: Layout, time: str) -> np.ndarray:
    canvas = _sky(layout, time)
    hue, light = layout.ground
    sea = mix((20, 90, 175), (40, 175, 190), layout.variant)
    _ground(canvas, horizon(layout) - 7, mix(sea, (255, 255, 255), 0.2), sea)
    shore = horizon(layout) + 2 + 5 * light + 1.2 * np.sin(X * (0.1 + 0.2 * layout.blocks[0][0]) + 6.28 * hue)
    _ground(canvas, shore - 1.5, (245, 250, 250), (245, 250, 250))
    sand = mix((225, 190, 120), (245, 225, 165), hue)
    _ground(canvas, shore, mix(sand, (255, 235, 190), light), sand)
    return canvas


def _snow(layout: Layout, time: str) -> np.ndarray:
    canvas = _sky(layout, time)
    hue, light = layout.ground
    for x, y, size in layout.marks[: int(8 * layout.variant)]:
        width, foot = 2.5 + 3 * size, horizon(layout) + 1 + 3 * y
        height = 3.2 * width
        inside = np.minimum(Y - foot + height, foot - Y)
        blend(
            canvas,
            edge(np.minimum(inside, (Y - foot + height) * width / height - np.abs(X - SIDE * x))),
            mix((25, 80, 60), (60, 110, 80), y),
        )
    _ground(
        canvas,
        _hills(layout, 1.5),
        mix((250, 250, 255), (225, 235, 250), hue),
        mix((215, 228, 245), (240, 244, 250), light),
    )
    return canvas


def _field(layout: Layout, time: str) -> np.ndarray:
    canvas = _sky(layout, time)
    hue, light = layout.ground
    green = mix((60, 140, 50), (140, 180, 50), hue)
    if layout.variant > 0.4:
        _ground(canvas, _hills(layout, 4) - 3, mix(green, (30, 90, 90), 0.4), mix(green, (30, 90, 90), 0.5))
    _ground(canvas, _hills(layout, 1), mix(green, (200, 220, 90), 0.4 * light), mix(green, (20, 70, 30), 0.3))
    for x, y, size in layout.marks[: int(10 * light)]:
        cy = horizon(layout) + 4 + (SIDE - horizon(layout)) * y
        blend(
            canvas,
            edge(1.0 + size - np.hypot(X - SIDE * x, Y - cy)),
            mix((255, 250, 235), (250, 190, 80), hue),
        )
    return canvas


def _desert(layout: Layout, time: str) -> np.ndarray:
    canvas = _sky(layout, time)
    hue, light = layout.ground
    sand = mix((215, 150, 80), (235, 190, 110), hue)
    if layout.variant > 0.5:  # table mountains behind
        for width, height, at in layout.blocks[4:7]:
            inside = np.minimum(7 + 8 * width - np.abs(X - SIDE * at), Y - horizon(layout) + 4 + 10 * height)
            blend(canvas, edge(inside), mix((175, 90, 60), (200, 120, 80), light))
    _ground(canvas, _hills(layout, 3.5) - 1, mix(sand, (120, 60, 30), 0.15), mix(sand, (120, 60, 30), 0.25))
    _ground(canvas, _hills(layout, 2) + 5 + 5 * light, mix(sand, (255, 230, 170), 0.3 * light), sand)
    return canvas


def _city(layout: Layout, time: str) -> np.ndarray:
    canvas = _sky(layout, time)
    hue, light = layout.ground
    draw_on = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    draw, x, base = ImageDraw.Draw(draw_on), -3.0, horizon(layout)
    lit = (250, 220, 120) if time == "night" else (215, 230, 240)
    for width, height, shade in layout.blocks:
        w, top = 8 + 7 * width, base - 8 - 18 * height
        colour = mix(mix((95, 95, 115), (170, 130, 110), hue), (200, 195, 195), shade * 0.8)
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
        mix((85, 85, 92), (130, 125, 125), light),
        mix((120, 120, 125), (160, 155, 150), light),
    )
    lane = horizon(layout) + (SIDE - horizon(layout)) * (0.45 + 0.3 * hue)
    dashes = np.minimum(0.9 - np.abs(Y - lane), 3 - np.abs((X + 14 * layout.blocks[0][0]) % 14 - 7))
    blend(canvas, edge(dashes), (235, 230, 200))
    return canvas


def _room(layout: Layout, time: str) -> np.ndarray:
    hue, light = layout.sky
    phases = 2 * np.pi * (hue + np.array([0, 1 / 3, 2 / 3]))
    wall = 190 + 20 * light + 40 * np.cos(phases)
    canvas = np.tile(wall.astype(np.float32), (SIDE, SIDE, 1))
    if layout.variant < 0.35:
        period = 8 + 6 * layout.blocks[0][0]
        blend(canvas, edge(np.abs((X % period) - period / 2) - period / 4) * 0.25, (255, 255, 255))
    elif layout.variant < 0.75:  # a window, or a picture
        x, y = 14 + 36 * layout.sun[0], 10 + 4 * layout.sun[1]
        inside = np.minimum(9 - np.abs(X - x), 7 - np.abs(Y - y))
        blend(canvas, edge(inside), (245, 240, 230))
        view = {"night": (30, 35, 90), "sunset": (250, 150, 80)}.get(time, (150, 205, 245))
        blend(canvas, edge(np.minimum(inside - 1.5, np.abs(X - x) - 0.7)), view)
    floor = mix((110, 65, 40), (190, 140, 95), layout.ground[0])
    _ground(canvas, horizon(layout) - 1.5, (240, 235, 230), (240, 235, 230))
    _ground(
        canvas,
        horizon(layout),
        mix(floor, (255, 220, 180), 0.2 * layout.ground[1]),
        mix(floor, (40, 20, 10), 0.2),
    )
    return canvas


def _under_water(layout: Layout, time: str) -> np.ndarray:
    hue, light = layout.sky
    canvas = vertical(
        mix((40, 130, 220), (60, 190, 190), hue), mix((10, 50, 120), (10, 90, 110), light), SIDE
    )
    if layout.variant > 0.4:  # rays of light
        rays = np.sin((X + 0.6 * Y) * (0.12 + 0.12 * layout.blocks[0][0]) + 6.28 * layout.sun[0])
        blend(canvas, np.clip(rays, 0, 1) * np.clip(1 - Y / 50, 0, 1) * 0.3, (220, 245, 255))
    for x, _, size in layout.marks[10 : 10 + int(5 * layout.variant)]:
        sway = SIDE * x + 1.8 * np.sin(Y * 0.3 + 6 * size)
        stem = np.minimum(1.6 - np.abs(X - sway), Y - 34 - 20 * size)
        blend(canvas, edge(stem), mix((20, 110, 70), (60, 150, 60), size))
    floor = mix((190, 170, 120), (120, 130, 130), layout.ground[0])
    _ground(
        canvas,
        _hills(layout, 1) * 0.3 + 0.7 * 56 - 6 * layout.ground[1],
        floor,
        mix(floor, (20, 60, 120), 0.4),
    )
    for x, y, size in layout.marks[: int(10 * light)]:
        distance, radius = np.hypot(X - SIDE * x, Y - 50 * y), 1 + 2 * size
        blend(
            canvas,
            edge(radius - distance) * 0.35 + edge(0.8 - np.abs(distance - radius)) * 0.5,
            (225, 245, 255),
        )
    return canvas


BACKGROUNDS = {
    "beach": _beach,
    "snow": _snow,
    "field": _field,
    "desert": _desert,
    "city": _city,
    "room": _room,
    "under water": _under_water,
}
