"""Picture strips: a row per pair with its source and its edits side by side, prompts as captions.

Columns run from the source over P2P (tau 1 to 0), the fixed seed and SDEdit (by strength) to other methods.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from results.labels import METHODS, method_label, natural_order
from results.store.picture_files import DamagedPicture, Digest, read_picture
from results.store.records import RECORD_IDENTITY
from results.tables.cells import CELL, CONTEXT, GIVEN, SOURCES, is_plain, made_elsewhere, ordered
from results.tables.paper import own_setting

CELL_SIDE = 160  # pixels that a picture should have at least, and hardly more
_GAP, _MARGIN, _GROUP_GAP, _HEADER, _LINE = 4, 16, 18, 52, 18
_INK, _FAINT, _BLANK = "#222222", "#777777", "#EEEEEE"
_TOLD = ["seed", "edit_type", "source_prompt", "target_prompt", "status"]
_FILE = ["image", "image_sha256", "image_bytes"]
_COLUMNS = list(dict.fromkeys([*CELL, *RECORD_IDENTITY, *_TOLD, *_FILE]))
_log = logging.getLogger(__name__)
_MOST = {"p2p": 8, "sdedit": 6}  # columns of a method; of others 4


def choose_pairs(cells: pd.DataFrame, limit: int = 8) -> list[str]:
    """Choose pairs in a fixed way: per edit type the first id with the most pictures, then the second.

    Only pairs with an edited picture to show. `cells` are `results.tables.cells.with_cells`' rows.
    """
    shown = cells["status"].eq("ok") & _in_strips(cells) & ~cells["method"].isin(GIVEN)
    edits = cells.loc[shown, ["edit_type", "pair_id"]]
    done = edits.groupby(list(edits)).size().reset_index(name="images")
    done["order"] = done["pair_id"].map(natural_order)
    done = done.sort_values(["edit_type", "images", "order"], ascending=[True, False, True], kind="stable")
    done["turn"] = done.groupby("edit_type").cumcount()
    return list(done.sort_values(["turn", "edit_type"], kind="stable")["pair_id"].unique()[:limit])


def strip(run_dir: Path, cells: pd.DataFrame, pairs: Sequence[str], *, side: int = CELL_SIDE) -> Image.Image:
    """Draw the strip of `pairs`, each with its smallest seed, from `cells` of a run's records (`with_cells`).

    Small pictures are enlarged by a whole factor, large ones reduced to `side`. A picture that is missing,
    damaged or failed is a blank that says so. ValueError where no pair has a row.
    """
    shown = _first_context(cells.loc[_in_strips(cells) & cells["pair_id"].isin(pairs), _COLUMNS])
    columns = _columns(shown)
    if not columns:
        raise ValueError("strip: none of the pairs has a row to show")
    names = [name for name in pairs if name in set(shown["pair_id"])]
    elsewhere = made_elsewhere(shown)
    lines = {
        name: list(
            shown[shown["pair_id"].eq(name) & (shown["seed"].eq(_seed(shown, name)) | elsewhere)].itertuples()
        )
        for name in names
    }
    side = max(_side(Path(run_dir), rows, side) for rows in lines.values())
    return _draw(Path(run_dir), lines, columns, _left_out(shown, columns), side)


def _in_strips(cells: pd.DataFrame) -> pd.Series:
    """Mark the rows that strips show: re-weighted ones of a method that has no others."""
    plain = is_plain(cells)
    return plain | ~plain.groupby(cells["method"]).transform("any")


def _draw(
    run_dir: Path,
    lines: dict[str, list[Any]],
    columns: list[tuple[str, str]],
    notes: dict[str, str],
    side: int,
) -> Image.Image:
    small, label = _font(12), _font(13)
    lefts, left = [], _MARGIN
    for index, (method, _) in enumerate(columns):
        left += _GROUP_GAP if index and method != columns[index - 1][0] else 0
        lefts.append(left)
        left += side + _GAP
    width = left - _GAP + _MARGIN
    captions = {name: _caption(rows, width - 2 * _MARGIN, label) for name, rows in lines.items()}
    labels = [_setting_lines(setting, side) for _, setting in columns]
    header = _HEADER + 15 * max(len(lines) for lines in labels)
    heights = [_LINE * len(text) + 6 + side + 16 for text in captions.values()]
    canvas = Image.new("RGB", (width, header + sum(heights)), "white")
    pen = ImageDraw.Draw(canvas)
    _draw_header(pen, columns, notes, labels, lefts, side)
    top = header
    for (name, rows), height in zip(lines.items(), heights):
        for number, text in enumerate(captions[name]):
            pen.text((_MARGIN, top + _LINE * number), text, font=label, fill=_INK)
        at = top + _LINE * len(captions[name]) + 6
        for (method, setting), left in zip(columns, lefts):
            found = [row for row in rows if (row.method, row.setting) == (method, setting)]
            picture = _picture(run_dir, found, side)
            if picture is None:
                pen.rectangle([left, at, left + side - 1, at + side - 1], fill=_BLANK)
                text = "failed" if any(row.status == "failed" for row in found) else "no image"
                pen.text((left + side / 2, at + side / 2), text, font=small, fill=_FAINT, anchor="mm")
            else:
                canvas.paste(picture, (left + (side - picture.width) // 2, at + (side - picture.height) // 2))
        top += height
    return canvas


def _draw_header(
    pen: ImageDraw.ImageDraw,
    columns: list[tuple[str, str]],
    notes: dict[str, str],
    labels: list[list[str]],
    lefts: list[int],
    side: int,
) -> None:
    """Write each method and its note over its columns, a line under it, and each setting over its column."""
    bold, small = _font(13, "DejaVuSans-Bold.ttf"), _font(12)
    for method in dict.fromkeys(method for method, _ in columns):
        own = [left for (name, _), left in zip(columns, lefts) if name == method]
        first, last = own[0], own[-1] + side
        note = notes[method]
        pen.text(
            ((first + last) / 2, _MARGIN + 6),
            _fit(method_label(method), last - first - int(bold.getlength(note)), bold) + note,
            font=bold,
            fill=_INK,
            anchor="mm",
        )
        pen.line([first, _MARGIN + 17, last - 1, _MARGIN + 17], fill="#BBBBBB")
    for lines, left in zip(labels, lefts):
        for number, text in enumerate(lines):
            pen.text(
                (left + side / 2, _MARGIN + 29 + 15 * number), text, font=small, fill=_FAINT, anchor="mm"
            )


def _setting_lines(setting: str, side: int) -> list[str]:
    """Break a setting at its commas, three lines at most; the end of a long value tells it from others."""
    parts = setting.split(", ", 2)
    return [_fit_end(part, side, _font(12)) for part in parts]


def _columns(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """List (method, setting) in the order of the strip, of each method a few settings (`_settings`)."""
    order = ("source", "reconstruction", "ideal", "p2p", "p2p_auto_tau", "fixed_seed", "sdedit")
    ranks = {name: rank for rank, name in enumerate(order)}
    methods = sorted(rows["method"].unique(), key=lambda name: (ranks.get(name, len(METHODS)), name))
    columns = []
    for method in methods:
        settings = _settings(rows[rows["method"].eq(method)], _MOST.get(method, 4))
        columns += [(method, setting) for setting in settings]
    return columns


def _settings(own: pd.DataFrame, most: int) -> list[str]:
    """Choose at most `most` settings of a method, its variants at the same values where they have them."""
    # From the freest edit to the closest one, as in the paper's figures.
    down = own["tau"].notna().all() and own["weighting"].nunique() == 1  # weights rise
    step = -1 if down else 1
    own = ordered(own)[::step].drop_duplicates("setting")
    if len(own) <= most:
        return list(own["setting"])
    own = own.assign(_value=[own_setting(row) for row in own.to_dict("records")])
    values = list(ordered(own.assign(variant=""))[::step]["_value"].unique())
    variants = list(own["variant"].unique())
    each = max(min(2, len(values)), most // len(variants))  # both ends at least
    having = own["_value"].value_counts()
    common = [value for value in values if having[value] == having.max()]
    chosen = _spread(common, each) if len(common) > 1 and having.max() > 1 else []
    settings: list[str] = []
    for variant in _spread(variants, most // each):
        by_value = own[own["variant"].eq(variant)].set_index("_value")["setting"]
        shown = [value for value in chosen if value in by_value.index]
        settings += list(by_value[shown or _spread(list(by_value.index), each)])
    return settings


def _spread(items: list[str], most: int) -> list[str]:
    """Return at most `most` items, both ends among them; fewer where these are evenly spaced."""
    last = len(items) - 1
    if last < most:
        return items
    even = [count for count in range(most // 2 + 1, most) if count > 1 and last % (count - 1) == 0]
    count = most if not even or last % (most - 1) == 0 else even[-1]
    return [items[round(index * last / (count - 1))] for index in range(count)]


def _left_out(rows: pd.DataFrame, columns: list[tuple[str, str]]) -> dict[str, str]:
    """Say of each method how many of its settings have a column, "" where all have."""
    there = rows.groupby("method")["setting"].nunique()
    shown = Counter(method for method, _ in columns)
    return {
        method: f", {count} of {there[method]} settings" if count < there[method] else ""
        for method, count in shown.items()
    }


def _first_context(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep one context per pair, so that a strip never mixes two models, and other tools' pictures."""
    keys = ["pair_id", *CONTEXT]
    ordered_rows = rows.assign(_last=made_elsewhere(rows)).sort_values(["_last", *CONTEXT])
    first = ordered_rows.drop_duplicates("pair_id")[keys]
    beside = rows[made_elsewhere(rows)].merge(first[["pair_id", "dataset"]], on=["pair_id", "dataset"])
    return pd.concat([rows.merge(first, on=keys), beside]).drop_duplicates([*RECORD_IDENTITY, "setting"])


def _seed(rows: pd.DataFrame, pair_id: str) -> int:
    own = rows[rows["pair_id"].eq(pair_id)]
    if not made_elsewhere(own).all():  # other tools' pictures tell of no seed
        own = own[~made_elsewhere(own)]
    done = own[own["status"].eq("ok")]
    return int((done if len(done) else own)["seed"].min())


def _side(run_dir: Path, rows: Sequence[Any], side: int) -> int:
    """Side of a cell: pictures below `side` are enlarged by a whole factor to the nearest size."""
    for row in rows:
        if row.status == "ok" and (picture := _read(run_dir, row)) is not None:
            longest = max(picture.size)
            return longest * max(1, round(side / longest)) if longest < side else side
    return side


def _picture(run_dir: Path, rows: Sequence[Any], side: int) -> Image.Image | None:
    for row in rows:
        if row.status != "ok" or (picture := _read(run_dir, row)) is None:
            continue
        scale = side / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        return picture.resize(size, Image.Resampling.BICUBIC if scale >= 1 else Image.Resampling.LANCZOS)
    return None


def _read(run_dir: Path, row: Any) -> Image.Image | None:
    """Return the picture of a record, None where it is missing, damaged or another one."""
    try:
        return read_picture(run_dir / row.image, Digest(row.image_sha256, int(row.image_bytes)))
    except (DamagedPicture, OSError) as error:
        _log.warning("a strip has a blank: %s", error)
        return None


def _caption(rows: Sequence[Any], width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """Wrap "source → target, edit type, seed" to the width of the strip, three lines at most."""
    # The target prompt of the source image and its reconstruction is its own prompt.
    row = min(rows, key=lambda row: row.method in SOURCES)
    text = f"“{_line(row.source_prompt)}”  →  “{_line(row.target_prompt)}”"
    text += f"   {_line(row.edit_type)}, seed {row.seed}" if row.edit_type else f"   seed {row.seed}"
    lines = wrap(text, max(12, int(width / font.getlength("n"))))
    return [_fit(line, width, font) for line in lines[:2] + ([" ".join(lines[2:])] if lines[2:] else [])]


def _line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _fit(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _fit_end(setting: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Fit "name=value", of whose value the beginning goes first."""
    name, equals, value = setting.partition("=")
    if not equals or font.getlength(setting) <= width:
        return _fit(setting, width, font)
    while value and font.getlength(f"{name}=…{value}") > width:
        value = value[1:]
    return _fit(f"{name}=…{value}", width, font)


def _font(size: int, name: str = "DejaVuSans.ttf") -> ImageFont.FreeTypeFont:
    # matplotlib brings this font along: wide coverage, the same picture on every machine.
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", name)
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
