"""Carry out a plan: images, then one record file per group, so that a killed run continues where it stood."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from experiments.datasets.pair import slug
from experiments.inputs.ideals import read_ideals
from experiments.inputs.masks import check_sizes, read_mask
from experiments.planning.plan import Branch, GroupPlan, Plan, without
from experiments.planning.setting_rows import given, labels
from experiments.running.inversion_cache import kept_paths
from p2p.attention.taking import check_layers
from p2p.denoise import Calls
from p2p.engine import Edited, batches, generate
from p2p.families import Model
from p2p.loading.pipeline_spec import Pipelines
from results.store.records import RECORD_IDENTITY, has_records, load_records, write_records
from results.store.run_folder import ideal_path, ideals_folder, pair_folder, picture_path
from results.store.whole_files import whole_file
from results.tables.cells import GIVEN

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunInfo:
    """What every record of a run repeats."""

    run_dir: Path
    dataset: str
    model: str
    cache_dir: Path  # where inversions are kept


def remaining(plan: Plan, run_dir: Path) -> Plan:
    """Return what of the plan has no successful record, or whose picture is gone.

    Where a picture goes that a group's edits are measured against, the group is made again.
    """
    if not has_records(run_dir):
        return plan
    records = load_records(run_dir)
    ok = records[records["status"] == "ok"]
    columns = ["image", "source_image", "mask", "ideal"]
    whole = [all((run_dir / path).exists() for path in paths) for paths in ok[columns].to_numpy()]
    broken = ok.loc[~np.array(whole, bool) & ok["method"].isin(GIVEN), "group"]
    kept = ok[np.array(whole, bool) & ~ok["group"].isin(broken)]
    done = set(kept[RECORD_IDENTITY].itertuples(index=False, name=None))
    return without(plan, lambda branch: branch.identity in done)


def check_model(plan: Plan, model: Model) -> None:
    """Raise ValueError where the loaded model cannot carry out the plan.

    Masks that do not fit the images to be made (it names the pairs), and layers that the model has not.
    """
    check_layers(model, (one for g in plan.groups for b in g.branches for one in b.trajectory.layers))
    masked = {b.pair.id: b.pair for group in plan.groups for b in group.branches if b.pair.mask}
    if masked:
        check_sizes(masked.values(), (model.upscaler or model).image_size)


def run_plan(plan: Plan, model: Model, info: RunInfo, pipelines: Pipelines) -> int:
    """Make every image of the plan and its records; return the number of groups that failed.

    A batch that fails is tried again group by group, so that one bad group is recorded with its cause and the
    others go on.
    """
    failed = 0
    with tqdm(total=plan.evaluations, desc="generating", unit="eval", smoothing=0.05) as bar:
        calls = Calls(plan.sampling.max_batch, bar.update)
        whole = [group.group() for group in plan.groups]
        for numbers in batches(whole, plan.sampling, plan.model.guidance_embedded):
            groups = [plan.groups[i] for i in numbers]
            try:
                _make(groups, plan, model, info, calls, pipelines)
            except Exception:  # whatever breaks one group must not lose the others
                _log.warning("a batch of %d groups failed, each is tried alone", len(groups), exc_info=True)
                failed += _one_by_one(groups, plan, model, info, calls, pipelines)
    return failed


def _make(
    groups: Sequence[GroupPlan], plan: Plan, model: Model, info: RunInfo, calls: Calls, pipelines: Pipelines
) -> None:
    began = time.monotonic()
    wanted = [group.group(model.image_size) for group in groups]
    keys = [group.inversion_key if group.inverts else "" for group in groups]
    paths = kept_paths(model, wanted, keys, plan.sampling, calls, info.cache_dir / "inversions")
    images = generate(model, wanted, plan.sampling, calls, paths, pipelines)
    seconds = (time.monotonic() - began) / len(groups)
    for group, edited in zip(groups, images, strict=True):
        ideals = _save_ideals(group, plan, model, info)
        _save(group, edited, plan, info, seconds, ideals)


def _save_ideals(group: GroupPlan, plan: Plan, model: Model, info: RunInfo) -> dict[str, Tensor]:
    """Keep the ideals of a group's pairs; return by pair the first one as the autoencoder gives it back.

    No edit can come nearer: it is the floor of errors to the ideal.
    """
    floors = {}
    for branch in {b.pair.id: b for b in group.branches if b.pair.ideal}.values():
        assert branch.pair.ideal is not None
        ideals = read_ideals(branch.pair.ideal, model.image_size)
        for number, ideal in enumerate(ideals):
            write_png(ideal, info.run_dir / ideal_path(_ideal(branch, plan), number))
        floors[branch.pair.id] = model.decode(model.encode(ideals[:1]))[0]
    return floors


def _one_by_one(
    groups: Sequence[GroupPlan], plan: Plan, model: Model, info: RunInfo, calls: Calls, pipelines: Pipelines
) -> int:
    failed = 0
    for group in groups:
        try:
            _make([group], plan, model, info, calls, pipelines)
        except Exception as error:
            failed += 1
            cause = f"{type(error).__name__}: {error}".splitlines()[0]
            tqdm.write(f"failed: {group.source_prompt!r}, seed {group.seed}: {cause}")
            rows = [_row(group, branch, plan, info, "", "", cause, 0.0) for branch in group.branches]
            write_records(info.run_dir, group.id, pd.DataFrame(rows))
    return failed


def _save(
    group: GroupPlan,
    edited: Edited,
    plan: Plan,
    info: RunInfo,
    seconds: float,
    ideals: Mapping[str, Tensor],
) -> None:
    rows = []
    sources: dict[str, str] = {}
    for branch, image in zip(group.branches, edited.images, strict=True):
        pair = branch.pair
        folder = pair_folder(slug(pair.id), group.seed)
        if pair.id not in sources:
            sources[pair.id] = picture_path(folder, "source", group.source_file_key)
            write_png(edited.source, info.run_dir / sources[pair.id])
            height, width = edited.source.shape[-2:]
            if pair.mask:
                mask = read_mask(pair.mask, pair.id, (height, width), pair.image)
                write_mask(mask, info.run_dir / _mask(branch))
            row = _own_row("source", branch.source_record_key, group, branch, plan, info, sources[pair.id])
            fitted = group.image.fitted((height, width)) if group.image else ""
            rows.append({**row, "warnings": fitted})
            if edited.reconstruction is not None:
                path = picture_path(folder, "reconstruction", group.reconstruction_file_key)
                write_png(edited.reconstruction, info.run_dir / path)
                key = branch.reconstruction_record_key
                own = _own_row("reconstruction", key, group, branch, plan, info, path, sources[pair.id])
                rows.append(own)
            if pair.id in ideals:
                path = picture_path(folder, "ideal", branch.ideal_key)
                write_png(ideals[pair.id], info.run_dir / path)
                ideal = given(branch, "ideal", branch.ideal_key)
                rows.append(_row(group, ideal, plan, info, path, sources[pair.id], "", 0.0))
        path = picture_path(folder, branch.method, branch.key)
        write_png(image, info.run_dir / path)
        rows.append(
            _row(group, branch, plan, info, path, sources[pair.id], "", seconds / len(group.branches))
        )
    write_records(info.run_dir, group.id, pd.DataFrame(rows))


def write_png(image: Tensor, path: Path) -> None:
    """Write an image (3, height, width) in [0, 1] as an 8-bit PNG, whole or not at all."""
    with whole_file(path) as partial:  # another worker may be making the same source image
        Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save(partial, format="PNG")


def write_mask(mask: np.ndarray, path: Path) -> None:
    """Write a mask (height, width) bool, white = True, as `write_png` does."""
    write_png(torch.from_numpy(mask).float().expand(3, -1, -1), path)


def _mask(branch: Branch) -> str:
    """Return where the run keeps the branch's mask, "" where it has none.

    Named after the source's key, which tells masks and models apart, as their images differ in size.
    """
    return (
        picture_path(pair_folder(slug(branch.pair.id)), "mask", branch.source_record_key)
        if branch.mask_digest
        else ""
    )


def _ideal(branch: Branch, plan: Plan) -> str:
    """Return the folder of the branch's ideals in the run, in the model's size, "" where it has none."""
    if not branch.ideal_digest:
        return ""
    return ideals_folder(pair_folder(slug(branch.pair.id)), f"{branch.ideal_digest}-{plan.setup}")


def read_png(path: Path) -> np.ndarray:
    """Return an image file as (3, height, width) float32 in [0, 1]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1) / 255


def _row(
    group: GroupPlan,
    branch: Branch,
    plan: Plan,
    info: RunInfo,
    image: str,
    source: str,
    error: str,
    seconds: float,
) -> dict[str, Any]:
    start, steps = branch.trajectory.start, plan.sampling.num_inference_steps
    if branch.trajectory.from_noise and group.inversion is not None:
        start = group.inversion.start(steps)
    pair = branch.pair
    return {
        **labels(branch, info.dataset, info.model),
        "group": group.id,
        "setup": plan.setup,
        "source_prompt": pair.source_prompt,
        "target_prompt": pair.target_prompt,
        "seed": group.seed,
        "inversion": group.inversion.label if group.inversion else "",
        "effective_steps": steps - (start or 0),
        "num_inference_steps": steps,
        "guidance_scale": float(plan.sampling.guidance_scale),
        "guidance_rescale": float(plan.sampling.guidance_rescale),
        "mask": _mask(branch),
        "ideal": _ideal(branch, plan),
        "uses_mask": branch.uses_mask,
        "image": image,
        "source_image": source,
        "status": "failed" if error else "ok",
        "error": error,
        "warnings": "",
        "seconds": seconds,
    }


def _own_row(
    method: str,
    key: str,
    group: GroupPlan,
    branch: Branch,
    plan: Plan,
    info: RunInfo,
    path: str,
    source: str | None = None,
) -> dict[str, Any]:
    """Return the record of a branch's source or its reconstruction: the target prompt is its own prompt.

    Without `source` the image at `path` is the source itself.
    """
    itself = given(branch, method, key)
    return _row(group, itself, plan, info, path, source or path, "", 0.0)
