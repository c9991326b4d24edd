"""Carry out a plan: images, then one record file per group, so that a killed run continues where it stood."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor
from tqdm import tqdm

from experiments.inputs.ideals import ideal_warnings, read_ideals
from experiments.inputs.masks import check_sizes, mask_warnings, read_mask
from experiments.planning.plan import GroupPlan, Plan, without
from experiments.running.inversion_cache import kept_paths
from experiments.running.png_files import write_mask, write_png
from experiments.running.record_rows import RecordRows, RunInfo, first_step
from p2p.engine import Edited, batches, generate
from p2p.families.model import Model
from p2p.loading.pipeline_spec import Pipelines
from p2p.sampling import Calls
from p2p.schedulers import noise_share
from results.store.records import PATH_COLUMNS, RECORD_IDENTITY, has_records, load_records, write_records
from results.store.run_folder import ideal_path
from results.tables.cells import GIVEN

_log = logging.getLogger(__name__)


def remaining(plan: Plan, run_dir: Path) -> Plan:
    """Return what of the plan has no successful record, or whose picture is gone.

    If the source, mask or ideal of a group is missing, its edits could not be scored, so the whole group is
    made again.
    """
    if not has_records(run_dir):
        return plan
    records = load_records(run_dir)
    ok = records[records["status"] == "ok"]
    whole = [all((run_dir / path).exists() for path in paths) for paths in ok[PATH_COLUMNS].to_numpy()]
    broken = ok.loc[~np.array(whole, bool) & ok["method"].isin(GIVEN), "group"]
    kept = ok[np.array(whole, bool) & ~ok["group"].isin(broken)]
    done = set(kept[RECORD_IDENTITY].itertuples(index=False, name=None))
    return without(plan, lambda branch: branch.identity in done)


def check_model(plan: Plan, model: Model) -> None:
    """Raise ValueError where the loaded model cannot carry out the plan.

    Masks that do not fit the images to be made (it names the pairs), and layers that the model has not.
    """
    model.check_layers(one for g in plan.groups for b in g.branches for one in b.trajectory.layers)
    masked = {b.pair.id: b.pair for group in plan.groups for b in group.branches if b.pair.mask}
    if masked:
        check_sizes(masked.values(), (model.upscaler or model).image_size)


def run_plan(plan: Plan, model: Model, info: RunInfo, pipelines: Pipelines) -> int:
    """Make every image of the plan and its records; return the number of groups that failed.

    A batch that fails is tried again group by group, so that one bad group is recorded with its cause and the
    others go on.
    """
    failed = 0
    info = replace(info, starts=_starts(plan, model))
    with tqdm(total=plan.evaluations, desc="generating", unit="eval", smoothing=0.05) as bar:
        calls = Calls(plan.sampling.max_batch, bar.update)
        whole = [group.group() for group in plan.groups]
        for numbers in batches(whole, plan.sampling, plan.model.guidance_embedded):
            groups = [plan.groups[i] for i in numbers]
            try:
                _make(groups, plan, model, info, calls, pipelines)
                continue
            except Exception:  # whatever breaks one group must not lose the others
                _log.warning("a batch of %d groups failed, each is tried alone", len(groups), exc_info=True)
            # Not while the error is at hand: its traceback holds the batch's tensors.
            failed += _one_by_one(groups, plan, model, info, calls, pipelines)
    return failed


def _starts(plan: Plan, model: Model) -> dict[int, tuple[float, float]]:
    """Return the timestep and the share of noise of each step at which a picture of the plan starts."""
    sampling = plan.sampling
    firsts = {first_step(picture, group, sampling) for group in plan.groups for picture in group.pictures()}
    scheduler = model.new_scheduler(sampling.num_inference_steps)
    return {
        step: (float(scheduler.timesteps[step]), noise_share(scheduler, step))
        for step in firsts
        if step is not None
    }


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
        rows = RecordRows(group, plan, info)
        _save(rows, edited, _save_ideals(rows, model), seconds, model.warnings)


def _save_ideals(rows: RecordRows, model: Model) -> dict[str, Tensor]:
    """Keep the ideals of a group's pairs; return by pair the first one as the autoencoder gives it back.

    No edit can come nearer: it is the floor of errors to the ideal.
    """
    floors = {}
    for branch in {b.pair.id: b for b in rows.group.branches if b.pair.ideal}.values():
        assert branch.pair.ideal is not None
        ideals = read_ideals(branch.pair.ideal, model.image_size)
        for number, ideal in enumerate(ideals):
            write_png(ideal, rows.info.run_dir / ideal_path(rows.ideals_folder(branch), number))
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
            rows = RecordRows(group, plan, info)
            write_records(
                info.run_dir, group.id, pd.DataFrame([rows.failed(b, cause) for b in group.branches])
            )
    return failed


def _save_masks(rows: RecordRows, size: tuple[int, int]) -> dict[str, str]:
    """Keep the masks of a group's pairs, in the size (height, width) of its pictures; return warnings."""
    warnings = {}
    for branch in {b.pair.id: b for b in rows.group.branches if b.pair.mask}.values():
        pair = branch.pair
        assert pair.mask is not None
        mask = read_mask(pair.mask, pair.id, size, pair.image)
        write_mask(mask, rows.info.run_dir / rows.mask_path(branch))
        warnings[pair.id] = mask_warnings(pair.mask, pair.id)
    return warnings


def _save(
    rows: RecordRows, edited: Edited, ideals: Mapping[str, Tensor], seconds: float, told: Sequence[str]
) -> None:
    """Write a group's pictures and the masks of its pairs, then its records; it took `seconds`.

    The records of what the model made warn of what is `told` of the model.
    """
    group, run_dir = rows.group, rows.info.run_dir
    size = (edited.source.shape[-2], edited.source.shape[-1])
    of_masks = _save_masks(rows, size)
    fitted = group.image.fitted(size) if group.image else ""
    edits = {b.identity: image for b, image in zip(group.branches, edited.images, strict=True)}
    records = []
    for picture in group.pictures():
        warnings = [of_masks.get(picture.pair.id, "")]
        if not picture.given:
            image = edits[picture.identity]
        elif picture.method == "ideal":
            image = ideals[picture.pair.id]
            assert picture.pair.ideal is not None
            warnings.append(ideal_warnings(picture.pair.ideal, size))
        elif picture.method == "reconstruction":
            assert edited.reconstruction is not None
            image = edited.reconstruction
        else:
            image = edited.source
            warnings.append(fitted)
        write_png(image, run_dir / rows.path(picture))
        own = 0.0 if picture.given else seconds / len(group.branches)
        as_given = picture.method == "ideal" or (picture.method == "source" and group.image)
        by_model = picture.trajectory.external is None and not as_given
        warnings += told if by_model else []
        records.append(rows.made(picture, own, "; ".join(filter(None, warnings))))
    write_records(run_dir, group.id, pd.DataFrame(records))
