"""The steps that `experiments.bench.store` measures, in a process each, of whichever version is on the path.

`python store_steps.py STEP FOLDER PAIRS [commands' arguments]` prints what the step took, as JSON.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from results.store import records
from results.store.metric_columns import write_columns

SEEDS = range(10)
TAUS = [number / 10 for number in range(10)]  # with the fixed seed 11 edits a group
FAMILIES = {
    "clip_l14@1": [f"clip_{part}_l14@1" for part in ("source", "target", "directional", "image")],
    "clip_b32@1": [f"clip_{part}_b32@1" for part in ("source", "target", "directional", "image")],
    "lpips_alex@1": ["lpips_alex@1"],
    "pixel@3": ["ssim@3", "ms_ssim@2", "psnr@1", "mse@1"],
}
TYPES = ("change object", "add object", "delete object", "change content", "change pose",
         "change color", "change material", "change background", "change style")  # fmt: skip
STEPS = 50
PICTURE_BYTES = 100_000

Row = dict[str, Any]


def _picture() -> bytes:
    """Return a small picture's PNG, as long as a large one's."""
    small = io.BytesIO()
    Image.new("RGB", (8, 8)).save(small, format="PNG")
    content, end = small.getvalue()[:-12], small.getvalue()[-12:]
    return content + bytes(PICTURE_BYTES - len(content) - len(end)) + end


PICTURE_SHA256 = hashlib.sha256(_picture()).hexdigest()


def groups(pairs: int) -> Iterator[tuple[str, list[Row]]]:
    """Yield the rows of each group's pictures, its source first."""
    for pair in range(pairs):
        for seed in SEEDS:
            group = f"a-photograph-of-thing-{pair:05d}-s{seed}-{pair * 10 + seed:012x}"
            edits = [("source", None), *(("p2p", tau) for tau in TAUS), ("fixed_seed", None)]
            yield group, [_row(group, pair, seed, method, tau) for method, tau in edits]


def _row(group: str, pair: int, seed: int, method: str, tau: float | None) -> Row:
    key = hashlib.sha256(f"{group} {method} {tau}".encode()).hexdigest()
    folder = f"images/pair-{pair:05d}-{pair:010x}/{seed}"
    window: Row = {}
    if tau is not None:
        share = 1 - tau
        window = {"cross_start": 0, "cross_end": round(STEPS * share)}
        window |= {"self_start": 0, "self_end": round(STEPS * min(0.4, share)), "operator": "replace"}
    source = f"a photograph of thing {pair} on a table in the garden"
    target = source if method == "source" else source.replace("table", "chair")
    told = {
        "key": key, "group": group, "pair_id": f"pair-{pair:05d}", "dataset": "synthetic", "model": "sd14",
        "setup": "0f3c5a7b", "edit_type": TYPES[pair % len(TYPES)], "source_prompt": source,
        "target_prompt": target, "method": method, "params": json.dumps({} if tau is None else {"tau": tau}),
        "tau": float("nan") if tau is None else tau, "image": f"{folder}/{method}-{key[:16]}.png",
        "image_sha256": PICTURE_SHA256, "image_bytes": PICTURE_BYTES,
        "source_image": f"{folder}/source-{group[-12:]}.png",
        "status": "ok", "seed": seed, "effective_steps": STEPS, "num_inference_steps": STEPS,
        "guidance_scale": 7.5, "guidance_rescale": 0.0, "seconds": 1.5,
    }  # fmt: skip
    return {**records.NOTHING, **window, **told}


def values(names: list[str], rows: list[Row], generator: np.random.Generator) -> list[Row]:
    """Return values of one family for a group's pictures; a source has no direction, and no PSNR."""
    undefined = ("clip_directional_l14@1", "clip_directional_b32@1", "psnr@1")
    made = []
    for name in names:
        for row, drawn in zip(rows, generator.normal(0.5, 0.1, len(rows)), strict=True):
            missing = row["method"] == "source" and name in undefined
            value, reason = (float("nan"), "images are equal") if missing else (float(drawn), "")
            made.append({"key": row["key"], "metric": name, "value": value, "reason": reason})
    return made


def write(run_dir: Path, pairs: int) -> Row:
    """Write records and values, family by family as a run does; count the writing alone."""
    spent = 0.0
    before = not hasattr(records, "record_files")  # a file a group, of frames

    def timed(work: Callable[[], object]) -> None:
        nonlocal spent
        began = time.process_time()
        work()
        spent += time.process_time() - began

    def write_all(made: Iterator[tuple[str, list[Row]]], family: str) -> None:
        if before:
            for group, rows in made:
                timed(lambda: _write_before(run_dir, family, group, rows))  # noqa: B023
            return
        files = records.metric_files(run_dir, family) if family else records.record_files(run_dir)
        with files:
            for _, rows in made:
                if family:
                    timed(lambda: files.gather(records.metric_rows(rows, family)))  # noqa: B023
                else:
                    timed(lambda: files.write(records.record_rows(rows)))  # noqa: B023

    write_all(groups(pairs), "")
    for number, (family, names) in enumerate(FAMILIES.items()):
        generator = np.random.default_rng(number)
        write_all(((group, values(names, rows, generator)) for group, rows in groups(pairs)), family)
        up = {name: not name.startswith(("lpips", "mse")) for name in names if "source" not in name}
        write_columns(run_dir, family, names, up)
    if not before:
        timed(lambda: records.merge_rows(run_dir))
    count = sum(1 for _ in run_dir.rglob("*.parquet"))
    return {"seconds": spent, "files": count}


def _write_before(run_dir: Path, family: str, group: str, rows: list[Row]) -> None:
    """Write a group's rows as versions with a file a group did, the steps of their callers included."""
    if not family:
        for name, part in pd.DataFrame(rows).groupby("group"):
            records.write_records(run_dir, name, part, replace=True)  # type: ignore[call-arg]
        return
    parts = []
    for metric in FAMILIES[family]:
        own = [row for row in rows if row["metric"] == metric]
        columns = {name: [row[name] for row in own] for name in ("key", "value", "reason")}
        parts.append(pd.DataFrame({"metric": metric, **columns}))
    records.write_metrics(run_dir, family, group, pd.concat(parts, ignore_index=True))  # type: ignore[call-arg]


def draw(run_dir: Path, pairs: int) -> Row:
    """Lay a picture at every place that the records name: links to a few files."""
    drawn = run_dir / "drawn"
    drawn.mkdir()
    for number, (_, rows) in enumerate(groups(pairs)):
        one = drawn / f"{number // 1000}.png"  # a file has so many links at most
        if not one.exists():
            one.write_bytes(_picture())
        folder = run_dir / Path(rows[0]["image"]).parent
        folder.mkdir(parents=True)
        for image in {row["image"] for row in rows} | {rows[0]["source_image"]}:
            os.link(one, run_dir / image)
    return {}


def summary(run_dir: Path, plots: bool) -> Row:
    """Load the run and make its tables, with plots its pictures too."""
    from results.summary import summarise

    began = time.process_time()
    summarise(run_dir, draw=plots)
    return {"seconds": time.process_time() - began}


def main() -> None:
    """Carry out one step and tell what it took."""
    step, folder, pairs = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    steps: dict[str, Callable[[], Row]] = {
        "write": lambda: write(folder, pairs),
        "draw": lambda: draw(folder, pairs),
        "tables": lambda: summary(folder, plots=False),
        "plots": lambda: summary(folder, plots=True),
    }
    told = steps[step]()
    print(json.dumps(told | {"megabytes": _megabytes()}))


def _megabytes() -> float:
    """Return the most memory held; Linux's `ru_maxrss` counts what the starting process held before."""
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


if __name__ == "__main__":
    main()
