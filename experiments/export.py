"""A run as training data of InstructPix2Pix (Brooks et al. 2023), filtered by stored metrics.

Prompt-to-Prompt is that paper's generator of such data. Layout, as its training code reads it:

    seeds.json                 [["0000000", ["0", "7"]], ...]
    0000000/prompt.json        {"input": ..., "edit": ..., "output": ...}
    0000000/metadata.jsonl     a line per seed: seed, p2p_threshold, cfg_scale, clip_sim_0/1/dir/image
    0000000/0_0.jpg, 0_1.jpg   source and edit of seed 0

A folder per pair. A seed has one edit there: of several settings that pass, the one with the highest
`clip_sim_dir`.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from results.store.picture_files import Digest, read_picture
from results.store.records import load, metric_columns
from results.store.whole_files import whole_folder
from results.tables.cells import GIVEN

KINDS = {"clip_sim_1": "clip_target", "clip_sim_dir": "clip_directional", "clip_sim_image": "clip_image"}


def export(
    run_dir: Path, out: Path, minimums: Mapping[str, float], method: str = "p2p", clip: str | None = None
) -> str:
    """Write the edits of one method that reach all minimums to a new folder; say what was left out, and why.

    `minimums` maps metric columns, or their beginnings where one column has it, to least values; an edit
    without a value does not pass. `clip` names the CLIP whose similarities are written, such as `embedded`;
    it may be left out where the run has one. ValueError says what is wrong, before anything is written.
    """
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: is not empty, the export needs a new folder")
    frame = load(run_dir)
    least = {_column(metric_columns(frame), name): value for name, value in minimums.items()}
    columns = _clip_columns(metric_columns(frame), clip)
    edits = frame[frame["method"].eq(method) & frame["status"].eq("ok")]
    if edits.empty:
        raise ValueError(f"method: {run_dir} has no edits by {method!r}, it has {', '.join(_methods(frame))}")
    # The source image's own target prompt is the source prompt.
    sources = frame[frame["method"].eq("source")].drop_duplicates("image").set_index("image")
    clip_0 = edits["source_image"].map(sources[columns["clip_sim_1"]])
    edits = edits.assign(clip_sim_0=clip_0, **{name: edits[column] for name, column in columns.items()})
    edits = edits.assign(edit=[_instruction(row) for _, row in edits.iterrows()])
    reasons = [_reason(row, least) for _, row in edits.iterrows()]
    passing = edits[[not reason for reason in reasons]].sort_values(
        ["clip_sim_dir", "key"], ascending=[False, True], kind="stable"
    )
    chosen = passing.drop_duplicates(["pair_id", "seed"])
    names = {pair_id: f"{number:07d}" for number, pair_id in enumerate(dict.fromkeys(edits["pair_id"]))}
    columns_of_digests = (frame[name] for name in ("image", "image_sha256", "image_bytes"))
    digests = {image: Digest(sha256, int(size)) for image, sha256, size in zip(*columns_of_digests)}
    listed = []
    with whole_folder(out) as folder:
        for pair_id, name in names.items():
            rows = chosen[chosen["pair_id"].eq(pair_id)].sort_values("seed")
            if len(rows):
                _write_pair(run_dir, folder / name, rows, digests)
                listed.append([name, [str(seed) for seed in rows["seed"]]])
        (folder / "seeds.json").write_text(json.dumps(listed))
    lines = [f"{len(chosen)} edits of {len(listed)} prompts, of {len(edits)} edits of {len(names)} prompts"]
    lines += [f"{count} left out: {reason}" for reason, count in Counter(filter(None, reasons)).most_common()]
    if other := len(passing) - len(chosen):
        lines.append(f"{other} left out: another setting of the same pair and seed has a higher clip_sim_dir")
    return "\n".join(lines)


def instruct(source_prompt: str, target_prompt: str) -> str:
    """Make an instruction of two prompts: "change X to Y", "add Y", "remove X" by words, joined by "and".

    A stated template and no language; "" where the prompts are equal.
    """
    old, new = source_prompt.split(), target_prompt.split()
    parts = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        gone, come = " ".join(old[a:b]), " ".join(new[c:d])
        texts = {"replace": f"change {gone} to {come}", "insert": f"add {come}", "delete": f"remove {gone}"}
        parts += [texts[kind]] if kind in texts else []
    return " and ".join(parts)


def _instruction(row: pd.Series) -> str:
    return str(row["instruction"]) or instruct(row["source_prompt"], row["target_prompt"])


def _reason(row: pd.Series, least: Mapping[str, float]) -> str:
    """Say why an edit is left out, "" where it is not."""
    if not row["edit"]:
        return "no instruction, and equal prompts"
    for name in ("clip_sim_0", *KINDS):
        if pd.isna(row[name]):
            return f"no {name}"
    for column, value in least.items():
        if not row[column] >= value:
            return f"{column} below {value:g}"
    return ""


def _write_pair(run_dir: Path, folder: Path, rows: pd.DataFrame, digests: Mapping[str, Digest]) -> None:
    folder.mkdir(parents=True)
    first = rows.iloc[0]
    prompt = {"input": first["source_prompt"], "edit": first["edit"], "output": first["target_prompt"]}
    (folder / "prompt.json").write_text(json.dumps(prompt))
    for _, row in rows.iterrows():
        for number, name in enumerate(("source_image", "image")):
            picture = read_picture(run_dir / row[name], digests.get(row[name]))
            picture.save(folder / f"{row['seed']}_{number}.jpg", quality=100)
    (folder / "metadata.jsonl").write_text(
        "".join(json.dumps(_metadata(row)) + "\n" for _, row in rows.iterrows())
    )


def _metadata(row: pd.Series) -> dict[str, Any]:
    """Return a line of `metadata.jsonl`.

    `p2p_threshold` is the share of steps, from the first, that take the source's self-attention: the paper's
    generator injects self-attention and no cross-attention. Null for an edit that did anything else.
    """
    from_first = pd.notna(row["self_start"]) and row["self_start"] == 0
    return {
        "seed": int(row["seed"]),
        "p2p_threshold": int(row["self_end"]) / int(row["num_inference_steps"]) if from_first else None,
        "cfg_scale": float(row["guidance_scale"]) if pd.notna(row["guidance_scale"]) else None,
        **{name: float(row[name]) for name in ("clip_sim_0", *KINDS)},
    }


def _methods(frame: pd.DataFrame) -> list[str]:
    return sorted(set(frame["method"]) - set(GIVEN))


def _clip_columns(there: Sequence[str], clip: str | None) -> dict[str, str]:
    labels = [
        name.removeprefix("clip_directional_") for name in there if name.startswith("clip_directional_")
    ]
    chosen = [label for label in labels if clip is None or label.split("@")[0] == clip]
    if not labels:
        raise ValueError(
            "clip: the run has no values of CLIP, which each edit is exported with; "
            "run it again with a metric of CLIP, it makes no picture anew"
        )
    if len(chosen) != 1:
        raise ValueError(
            f"clip: {clip or 'not given'}, allowed is one of "
            f"{', '.join(label.split('@')[0] for label in labels)}"
        )
    return {name: f"{prefix}_{chosen[0]}" for name, prefix in KINDS.items()}


def _column(there: Sequence[str], name: str) -> str:
    found = [name] if name in there else [full for full in there if full.startswith((f"{name}_", f"{name}@"))]
    if len(found) != 1:
        what = f"stands for {', '.join(found)}" if found else "is no metric of the run"
        raise ValueError(f"min: {name} {what}; the run has {', '.join(there) or 'none'}")
    return found[0]


def main(arguments: Sequence[str]) -> int:
    """Run `p2p-bench export`; return the exit code."""
    parser = argparse.ArgumentParser("p2p-bench export", description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--min",
        nargs="+",
        action="extend",
        default=[],
        metavar="METRIC=VALUE",
        type=_minimum,
        dest="minimums",
    )
    parser.add_argument("--method", default="p2p")
    parser.add_argument("--clip", help="whose similarities are written, where the run has several")
    given = parser.parse_args(arguments)
    print(export(given.run_dir, given.out, dict(given.minimums), given.method, given.clip))
    return 0


def _minimum(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        least = float(value)
        if math.isfinite(least):
            return name, least
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r}: must be METRIC=VALUE, such as clip_image=0.7")
