"""A small synthetic run: four pairs, two seeds, P2P over tau, SDEdit, fixed seed, weights, tiny pictures."""

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from results.store.metric_columns import write_columns
from results.store.records import RECORD_TYPES, write_metrics, write_records

DIRECTIONS = {
    "clip_target_embedded@1": True,
    "clip_directional_embedded@1": True,
    "lpips_embedded@1": False,
    "ms_ssim@2": True,
}
METRICS = list(DIRECTIONS)
PAIRS = {
    "cat-dog": ("a cat on the grass", "a dog on the grass", "swap"),
    "house-10": ("a house at night", "a red house at night", "add"),
    "house-2": ("a tower at night", "a snowy tower at night", "add"),
    "snow": ("a snowy field", "a snowy field", "reweight"),
}
TAUS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
STRENGTHS = (0.3, 0.5, 0.7, 0.9)


def make_row(pair_id: str, seed: int, method: str, **settings: object) -> dict[str, object]:
    """One successful record, with defaults for everything that `settings` does not name."""
    source, target, edit_type = PAIRS.get(pair_id, ("a cat", "a dog", "swap"))
    row: dict[str, object] = {
        **dict.fromkeys(name for name, kind in RECORD_TYPES.items() if kind == "string"),
        "dataset": "toy",
        "model": "tiny",
        "setup": "0f3c",
        "edit_type": edit_type,
        "difficulty": "",
        "warnings": "",
        "instruction": "",
        "error": "",
        "status": "ok",
        "pair_id": pair_id,
        "seed": seed,
        "method": method,
        "source_prompt": source,
        "target_prompt": target,
        "group": f"{pair_id}-{seed}",
        "operator": "",
        "inversion": "",
        "weights": "{}",
        "blend": "{}",
        "params": "{}",
        "mask": "",
        "ideal": "",
        "uses_mask": False,
        "tau": np.nan,
        "strength": np.nan,
        **dict.fromkeys(("cross_start", "cross_end", "self_start", "self_end"), pd.NA),
        "effective_steps": 50,
        "num_inference_steps": 50,
        "guidance_scale": 7.5,
        "guidance_rescale": 0.0,
        "start_timestep": np.nan,
        "start_noise": np.nan,
        "seconds": 0.5,
        "image_sha256": "",
        "mask_digest": "",
        "image_bytes": 0,
        **settings,
    }
    shown = {
        name: value for name, value in row.items() if name not in ("image", "status", "error", "seconds")
    }
    row["key"] = settings.get("key") or hashlib.sha256(str(shown).encode()).hexdigest()[:16]
    folder = f"images/{pair_id}/{seed}"
    row["image"] = settings.get("image", f"{folder}/{row['key']}.png")
    row["source_image"] = settings.get("source_image", f"{folder}/source.png")
    if method == "source":
        row["image"] = row["source_image"]
    return row


def p2p(tau: float) -> dict[str, object]:
    """Settings of a P2P row with threshold `tau`."""
    share = 1 - tau
    return {
        "tau": tau,
        "operator": "replace",
        "params": json.dumps({"tau": tau}),
        **windows((0, round(50 * share)), (0, round(50 * min(0.4, share)))),
    }


def windows(cross: tuple[int, int], own: tuple[int, int]) -> dict[str, object]:
    """Settings of a P2P row with given windows, in steps."""
    return {"cross_start": cross[0], "cross_end": cross[1], "self_start": own[0], "self_end": own[1]}


def make_frame(pairs: list[str], seeds: range = range(2)) -> pd.DataFrame:
    """Records of a small sweep."""
    rows = []
    for pair_id, seed in itertools.product(pairs, seeds):
        rows += [
            make_row(pair_id, seed, "source", target_prompt=PAIRS[pair_id][0]),
            make_row(pair_id, seed, "fixed_seed"),
        ]
        rows += [make_row(pair_id, seed, "p2p", **p2p(tau)) for tau in TAUS]
        rows += [
            make_row(pair_id, seed, "sdedit", strength=s, params=json.dumps({"strength": s}))
            for s in STRENGTHS
        ]
        if pair_id == "snow":
            weights = [json.dumps({"snowy": w}) for w in (0.5, 2.0)]
            rows += [make_row(pair_id, seed, "p2p", **{**p2p(0.2), "weights": w}) for w in weights]
    return pd.DataFrame(rows)


def make_metrics(frame: pd.DataFrame) -> pd.DataFrame:
    """Values that behave as the real ones do: a freer edit has higher CLIP and higher LPIPS."""
    generator = np.random.default_rng(0)
    rows = []
    for row in frame[frame["status"] == "ok"].drop_duplicates("key").itertuples():
        freedom = {"source": 0.0, "fixed_seed": 1.0}.get(row.method, row.tau)
        cost = freedom
        if row.method == "sdedit":
            freedom, cost = 0.9 * row.strength, 0.3 + 0.9 * row.strength
        noise = generator.normal(0, 0.02, 4)
        values = [0.2 + 0.1 * np.sqrt(freedom), 0.05 + 0.15 * freedom, 0.05 + 0.4 * cost, 0.95 - 0.6 * cost]
        undefined = row.source_prompt == row.target_prompt or row.method == "source"
        for metric, value in zip(METRICS, values + noise):
            missing = undefined and "directional" in metric
            reason = "prompts or images are equal" if missing else ""
            rows.append(
                {"key": row.key, "metric": metric, "value": np.nan if missing else value, "reason": reason}
            )
    return pd.DataFrame(rows)


def draw(path: Path, row: pd.Series, side: int = 64) -> None:
    """Draw a picture that depends on the row, so that strips can be told apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    amount = (
        (0.5 if pd.isna(row.tau) else row.tau)
        if row.method == "p2p"
        else (row.strength if row.method == "sdedit" else row.method != "source")
    )
    shade = (int(60 + 150 * amount), int(120 + 10 * row.seed), int(200 - 150 * amount))
    image = Image.new("RGB", (side, side), (200, 215, 230))
    at = side * (0.2 + 0.2 * amount)
    ImageDraw.Draw(image).ellipse([at, side * 0.3, at + side * 0.4, side * 0.8], fill=shade)
    image.save(path)


def write_run(run_dir: Path, frame: pd.DataFrame, metrics: pd.DataFrame | None, side: int = 64) -> None:
    """Write records, metrics and pictures as a runner would."""
    for _, rows in frame.groupby("group"):
        for row in rows[rows["status"] == "ok"].itertuples():
            draw(run_dir / row.image, row, side)
        write_records(run_dir, rows)
        if metrics is not None:
            values = metrics[metrics["key"].isin(rows["key"])]
            write_metrics(run_dir, "toy@1", values)
    if metrics is not None:
        write_columns(run_dir, "toy@1", list(metrics["metric"].unique()), DIRECTIONS)
