"""Published numbers, `results/reference/*.csv`, and a run's own beside them: difference, within tolerance.

A CSV holds one number a line, as printed: `value` = `scaling` x our unit. `column` is our versioned metric
where it is the same measure, else `published/...`, which nothing of ours is compared with. `n` is of how many
images it is the mean, where that is known. `tolerance`, in the unit of `value`, is stated where a rerun is
known to come that near, of pictures saved in the format `tolerance_format`. `from_memory` marks what nobody
checked, a `source` that begins with SECOND_HAND what was not read where it was first printed; both stand in
tables of their own, which nobody gets who does not name them.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import pandas as pd

from results.labels import METHODS, csv_text, escape_markdown, method_label
from results.store.picture_files import FORMATS
from results.store.whole_files import write_whole
from results.tables.cells import ALL, GIVEN, made_elsewhere
from results.tables.invariants import PRINTED, impossible_errors, most_images

FOLDER = Path(__file__).parents[1] / "reference"
COLUMNS = (
    *("table", "method", "inversion", "setting", "column", "value", "scaling", "n", "tolerance"),
    *("tolerance_format", "from_memory", "source", "note"),
)
SECOND_HAND = "read second-hand: "
COMPARISON = (
    *(
        "method",
        "inversion",
        "setting",
        "metric",
        "ours",
        "published",
        "difference",
        "tolerance",
        "within",
        "scaling",
        "n",
        "published_n",
        "format",
        "tolerance_format",
    ),
    *("published_method", "published_inversion", "published_setting", "from_memory", "source", "note"),
)
_IDENTITY = ["table", "method", "inversion", "setting", "column"]
_CELL = ("method", "inversion", "setting", "metric")
# What the tables call our methods and inversions; other names are of things that are not ours.
_METHODS = {
    "source image": "source",
    "no control": "fixed_seed",
    "SDEdit": "sdedit",
    "SD-SDEdit": "sdedit",
    "P2P": "p2p",
    "prompt-to-prompt": "p2p",
    "MasaCtrl": "masactrl",
    "PnP": "plug_and_play",
    "InstructPix2Pix": "instruct_pix2pix",
    "IP2P": "instruct_pix2pix",
    "LEDITS++": "ledits_pp",
    "FlowEdit": "flowedit",
    "UniEdit-Flow": "uniedit",
    "UniEdit-Flow (15, 0.6)": "uniedit",  # steps and alpha, which the setting does not say
    "UniEdit-Flow (15, 0.8)": "uniedit",
}
_INVERSIONS = {
    "DDIM": "ddim",
    "Null-text": "null_text",
    "NTI": "null_text",
    "NPI": "negative_prompt",
    "ProxNPI": "proximal",
    "EF-DDPM": "edit_friendly",
    "EF (edit-friendly)": "edit_friendly",
    "Direct": "direct",
    "Direct, rerun by ViMAEdit": "direct",
    "DDIM (SPDInv's run)": "ddim",
    "Null-text (ISLock's run)": "null_text",
    "VI* (virtual inversion, 15 steps)": "virtual",
}
Formats: TypeAlias = Mapping[tuple[str, str], str]
"""By setup and method the format that pictures were saved in, one of FORMATS; "" where it is not known."""


def reference_tables(folder: Path = FOLDER) -> list[str]:
    """Name the tables of published numbers that there are."""
    return sorted(file.stem for file in folder.glob("*.csv"))


def load_reference(tables: Collection[str] | None = None, folder: Path = FOLDER) -> pd.DataFrame:
    """Return the published numbers of the named tables, or of all tables, one a row, columns COLUMNS.

    ValueError names an unknown table, and every line that lacks a source or holds what cannot be.
    """
    there = reference_tables(folder)
    if isinstance(tables, str) or (unknown := sorted(set(tables or ()) - set(there))):
        asked = tables if isinstance(tables, str) else ", ".join(unknown)
        raise ValueError(f"reference: no table {asked}, allowed is a list of {', '.join(there)}")
    return pd.concat(
        [_read(folder / f"{name}.csv") for name in (there if tables is None else tables)] or [_empty()],
        ignore_index=True,
    )


def picture_formats(frame: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Return in which format the edits of a run were saved, by setup and method.

    `frame` are its records, or rows of tables. Of pictures that another tool made, the format of its files.
    """
    names = frame["image"].astype(str)
    files = frame["warnings"].astype(str).str.extract(r"^image of (.+?)(?:;|$)", flags=re.DOTALL)[0]
    names = names.mask(made_elsewhere(frame), files.fillna(""))
    made = frame["status"].eq("ok")
    found = names.str.rsplit(".", n=1).str[-1].str.lower().replace({"jpg": "jpeg"})[made]
    by = [frame.loc[made, name].astype(str) for name in ("setup", "method")]
    several = found.groupby(by).unique()
    return {
        (str(setup), str(method)): one[0] if len(one) == 1 and one[0] in FORMATS else ""
        for (setup, method), one in several.items()
    }


def compare(
    table: pd.DataFrame, reference: pd.DataFrame, formats: Formats = MappingProxyType({})
) -> pd.DataFrame:
    """Put every cell of a main table beside published numbers of the same metric; columns COMPARISON.

    Of each published table, the rows of the cell's method and inversion; without one, the rows of the method;
    without one, all rows.

    Only rows over all edit types. The source image stands beside published numbers of the source image and
    nothing else does; a reconstruction and an ideal, which are no edits, beside none. `ours`, `published`,
    `difference` (ours - published) and `tolerance` are in the published unit. Both `tolerance` and `within`
    are missing where none is stated, or the row is of another method or inversion: a difference then judges
    nothing. `within` is missing too where our pictures were saved in another format (`formats`, as
    `picture_formats` gives them) or are fewer than the published ones, as saving them as JPEG alone shifts
    PSNR on photographs by more than a rerun does.
    """
    edits = ~table["method"].isin(GIVEN) | table["method"].eq("source")
    mine = table[table["edit_type"].eq(ALL) & table["mean"].notna() & edits]
    mine = mine[[*_CELL, "mean", "n"]].assign(
        format=[formats.get(name, "") for name in zip(mine["setup"], mine["method"], strict=True)]
    )
    published = reference.rename(
        columns={
            "method": "published_method",
            "inversion": "published_inversion",
            "setting": "published_setting",
            "value": "published",
            "n": "published_n",
        }
    )
    rows = mine.merge(published, left_on="metric", right_on="column")
    rows = rows[rows["method"].eq("source") == rows["published_method"].eq(METHODS["source"])].copy()
    same_method = rows["published_method"].map(_METHODS).eq(rows["method"])
    inversion = rows["inversion"].str.split(" ").str[0]  # without its settings
    same_inversion = rows["published_inversion"].replace(_INVERSIONS).eq(inversion)
    near = same_method.astype(int) + (same_method & same_inversion)
    nearest = near.groupby([rows[name] for name in (*_CELL, "table")], dropna=False).transform("max")
    rows = rows[near.eq(nearest)].assign(tolerance=rows["tolerance"].where(near.eq(2)))
    rows["ours"] = rows["mean"] * rows["scaling"]
    rows["difference"] = rows["ours"] - rows["published"]
    # A printed number is rounded: one that differs by just the tolerance is within it.
    inside = rows["difference"].abs().round(9).le(rows["tolerance"]).astype("boolean")
    alike = rows["format"].eq(rows["tolerance_format"]) & rows["n"].eq(rows["published_n"])
    rows["within"] = inside.mask(rows["tolerance"].isna() | ~alike)
    return rows[list(COMPARISON)].reset_index(drop=True)


def to_markdown(comparison: pd.DataFrame) -> str:
    """Write a comparison as one table, with its sources below."""
    header = (
        *("method", "setting", "metric", "ours", "published", "of", "difference", "tolerance", "within"),
        *("pairs", "source"),
    )
    sources = list(dict.fromkeys(comparison["source"]))
    lines = [header, ["---"] * 3 + ["---:"] * 2 + ["---"] + ["---:"] * 5]
    for row in comparison.itertuples():
        names = (row.published_method, row.published_inversion, row.published_setting)
        own = ", ".join(name for name in (method_label(row.method), row.inversion) if name)
        second_hand = " (second-hand)" if row.source.startswith(SECOND_HAND) else ""
        told = ", ".join(name for name in names if name)
        told += " (from memory)" if row.from_memory else second_hand
        unit = f" (x {row.scaling:g})" if row.scaling != 1 else ""
        stated = pd.notna(row.tolerance)
        lines += [
            [
                *(escape_markdown(text) or "—" for text in (own, row.setting)),
                *(escape_markdown(f"{row.metric}{unit}"), f"{row.ours:.4g}", f"{row.published:.4g}"),
                *(escape_markdown(told), f"{row.difference:+.3g}"),
                f"{row.tolerance:g} ({row.tolerance_format})" if stated else "—",
                *("—" if pd.isna(row.within) else "yes" if row.within else "no", f"{row.n}"),
                f"{1 + sources.index(row.source)}",
            ]
        ]
    listed = [f"{number}. {escape_markdown(source)}" for number, source in enumerate(sources, start=1)]
    body = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    below = ["Published numbers; what gave ours may differ in more than the method."]
    if len(unlike := comparison[comparison["tolerance"].notna() & comparison["within"].isna()]):
        below.append(_why_not_judged(unlike))
    return "\n\n".join([body, *below, *listed]) + "\n"


def _why_not_judged(rows: pd.DataFrame) -> str:
    """Say why rows with a tolerance are not judged by it."""
    other = rows[rows["format"].ne(rows["tolerance_format"])]
    causes = []
    if len(other):
        ours = ", ".join(sorted({name or "unknown" for name in other["format"]}))
        stated = ", ".join(sorted(set(other["tolerance_format"])))
        causes.append(f"it is of pictures saved as {stated}, ours are {ours} (images.format={stated})")
    if len(other) < len(rows):
        most = ", ".join(f"{n:.0f}" for n in sorted(set(rows["published_n"].dropna()), reverse=True))
        causes.append(f"it is of means over {most} images")
    return f"A tolerance judges nothing where {'; or '.join(causes)}."


def write_comparison(comparison: pd.DataFrame, stem: Path) -> list[Path]:
    """Write `<stem>.csv` and `.md`; returns their paths."""
    texts = {".csv": csv_text(comparison), ".md": to_markdown(comparison)}
    paths = [stem.with_name(stem.name + suffix) for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_whole(path, text)
    return paths


def _empty() -> pd.DataFrame:
    return pd.DataFrame(columns=list(COLUMNS))


def _read(file: Path) -> pd.DataFrame:
    rows = pd.read_csv(file, dtype=str, keep_default_na=False)
    if tuple(rows.columns) != COLUMNS:
        raise ValueError(f"{file}: the columns must be {', '.join(COLUMNS)}, are {', '.join(rows.columns)}")
    for name in ("value", "scaling", "n", "tolerance"):
        rows[name] = pd.to_numeric(rows[name].where(rows[name].ne(""), None), errors="coerce")
    problems = {
        "no source": rows["source"].str.strip().eq(""),
        "no method or column": rows["method"].eq("") | rows["column"].eq(""),
        "value is no number": rows["value"].isna(),
        "scaling is not above 0": ~rows["scaling"].gt(0),
        "n is more than there are images": rows["n"].gt(rows["column"].map(most_images)),
        "tolerance is not above 0": rows["tolerance"].le(0),
        f"tolerance_format is not {' or '.join(FORMATS)}": rows["tolerance"].notna()
        & ~rows["tolerance_format"].isin(FORMATS),
        "from_memory is not true or false": ~rows["from_memory"].isin(["true", "false"]),
        f"table is not {file.stem}": rows["table"].ne(file.stem),
        "stands twice": rows.duplicated(_IDENTITY),
        "MSE is below what its PSNR allows": _impossible(rows),
    }
    told = [f"line {line + 2}: {what}" for what, bad in problems.items() for line in rows.index[bad]]
    if told:
        raise ValueError(f"{file}: {'; '.join(told)}")
    rows["from_memory"] = rows["from_memory"].eq("true")
    return rows.astype(dict.fromkeys(("value", "scaling", "n", "tolerance"), float))


def _impossible(rows: pd.DataFrame) -> pd.Series:
    """Mark printed mean MSEs that no images with the printed mean PSNR have."""
    by = _IDENTITY[:-1]
    means = rows.assign(mean=rows["value"] / rows["scaling"]).rename(columns={"column": "metric"})
    bad = impossible_errors(means, by, PRINTED)
    named = pd.MultiIndex.from_frame(rows[_IDENTITY])
    return pd.Series(named.isin(pd.MultiIndex.from_frame(bad[[*by, "metric"]])), index=rows.index)
