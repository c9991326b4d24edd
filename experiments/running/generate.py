"""Carry out a plan: images, then each group's records, so that a killed run continues where it stood."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from torch import Tensor
from tqdm import tqdm

from experiments.inputs.ideals import ideal_images
from experiments.inputs.masks import check_sizes
from experiments.planning.plan import GroupPlan, Identity, Plan, without
from experiments.running.causes import told
from experiments.running.inversion_cache import kept_paths
from experiments.running.record_rows import Recorded, RecordRows, RunInfo, first_step
from experiments.running.saving import Made, OnRecords, Saver
from p2p.engine import check_edits, generate
from p2p.families.model import Model
from p2p.groups import batches
from p2p.loading.pipeline_spec import Pipelines
from p2p.sampling import Calls
from p2p.schedulers import noise_share
from results.store.picture_files import SUFFIXES, Digest, looks_whole
from results.store.records import (
    PATH_COLUMNS,
    RECORD_IDENTITY,
    has_records,
    load_records,
    record_files,
)
from results.store.whole_files import no_room

_log = logging.getLogger(__name__)


def remaining(plan: Plan, run_dir: Path) -> Plan:
    """Return what of the plan has no successful record, or whose picture is gone or damaged.

    An edit whose source, reconstruction, mask or ideal is missing could not be scored, so it is made again
    with them. Files are looked at by size, first and last bytes; whoever reads a picture compares its digest.
    """
    if not has_records(run_dir):
        return plan
    records = load_records(run_dir)
    ok = records[records["status"] == "ok"]
    sizes = dict(zip(ok["image"], ok["image_bytes"], strict=True))
    paths = {path for column in PATH_COLUMNS for path in ok[column]}
    broken = [path for path in paths if path and not _is_whole(run_dir, path, sizes.get(path, 0))]
    kept = ok[~ok[PATH_COLUMNS].isin(broken).any(axis=1)] if broken else ok
    recorded = set(kept[RECORD_IDENTITY].itertuples(index=False, name=None))
    done = {
        branch.identity
        for group in plan.groups
        for branch in group.branches
        if recorded.issuperset([branch.identity, *group.given_identities(branch)])
    }
    return without(plan, lambda branch: branch.identity in done)


def group_states(plan: Plan, run_dir: Path) -> list[str]:
    """Return for each group of the plan whether it is "there", "failed" or "missing", by its records alone.

    One that is there has a successful record of each picture; of one that failed each edit was tried.
    """
    if not has_records(run_dir):
        return ["missing"] * len(plan.groups)
    records = load_records(run_dir)
    tried = set(records[RECORD_IDENTITY].itertuples(index=False, name=None))
    made = set(records.loc[records["status"] == "ok", RECORD_IDENTITY].itertuples(index=False, name=None))
    states = []
    for group in plan.groups:
        if all(made.issuperset([b.identity, *group.given_identities(b)]) for b in group.branches):
            states.append("there")
        else:
            edits = tried.issuperset(branch.identity for branch in group.branches)
            states.append("failed" if edits else "missing")
    return states


def _is_whole(run_dir: Path, path: str, size: int) -> bool:
    """Say whether a picture, or each picture of a pair's ideals, is there and looks whole."""
    if path.endswith(tuple(SUFFIXES.values())):
        return looks_whole(f"{run_dir}/{path}", size)
    ideals = list((run_dir / path).glob("*.png"))
    return bool(ideals) and all(map(looks_whole, ideals))


def recorded_pictures(run_dir: Path) -> dict[Identity, Recorded]:
    """Return what the store holds of each picture."""
    return pictures_of(load_records(run_dir)) if has_records(run_dir) else {}


def pictures_of(records: pd.DataFrame) -> dict[Identity, Recorded]:
    """Return what records tell of each picture."""
    names = records[RECORD_IDENTITY].itertuples(index=False, name=None)
    columns = ("group", "image", "image_sha256", "image_bytes")
    told = zip(*(records[column] for column in columns), strict=True)
    return {
        name: Recorded(group, image, Digest(sha256, int(size)))
        for name, (group, image, sha256, size) in zip(names, told, strict=True)
    }


def check_model(plan: Plan, model: Model) -> None:
    """Raise ValueError where the loaded model cannot carry out the plan.

    Masks that do not fit the images to be made (it names the pairs), and layers that the model has not.
    """
    edits = {id(b.trajectory): b.trajectory for group in plan.groups for b in group.branches}
    check_edits(model, edits.values())
    masked = {b.pair.id: b.pair for group in plan.groups for b in group.branches if b.pair.mask}
    if masked:
        check_sizes(masked.values(), (model.upscaler or model).image_size)


def run_plan(
    plan: Plan,
    model: Model,
    info: RunInfo,
    pipelines: Pipelines,
    on_records: OnRecords = lambda records: None,
) -> int:
    """Make every image of the plan and its records; return the number of groups that failed.

    `on_records` as in `make_groups`.
    """
    info = replace(info, recorded=recorded_pictures(info.run_dir))
    with tqdm(total=plan.evaluations, desc="generating", unit="eval", smoothing=0.05) as bar:
        return make_groups(plan, model, info, pipelines, bar.update, on_records)


def make_groups(
    plan: Plan,
    model: Model,
    info: RunInfo,
    pipelines: Pipelines,
    on_rows: Callable[[int], object],
    on_records: OnRecords = lambda records: None,
) -> int:
    """Make every image of the plan and its records; return the number of groups that failed.

    Images are saved while the next ones are made. A batch that cannot be made is tried again group by group,
    so that one bad group is recorded with its cause and the others go on. OSError where nothing more can be
    written (`no_room`); what was recorded by then stays. `info.recorded` is what the store holds of the
    plan's pictures. `on_rows` is told the rows of each call of the denoiser; `on_records` the new records of
    each batch once they are written, on the thread that saves.
    """
    info = replace(info, starts=_starts(plan, model))
    with model.unchanged(), record_files(info.run_dir) as files, Saver(files, on_records) as saver:
        calls = Calls(plan.sampling.max_batch, on_rows)
        whole = [group.group() for group in plan.groups]
        for numbers in batches(whole, plan.sampling, plan.model.guidance_embedded):
            groups = [plan.groups[i] for i in numbers]
            try:
                saver.save(_make(groups, plan, model, info, calls, pipelines))
                continue
            except Exception as error:  # whatever breaks one group must not lose the others
                if no_room(error):
                    raise
                cause = told(error)
                _log.warning("a batch of %d groups failed, each is tried alone: %s", len(groups), cause)
                _log.debug("its traceback:", exc_info=True)
            # Not while the error is at hand: its traceback holds the batch's tensors.
            for group in groups:
                try:
                    saver.save(_make([group], plan, model, info, calls, pipelines))
                except Exception as error:
                    if no_room(error):
                        raise
                    _log.debug("its traceback:", exc_info=True)
                    saver.fail(RecordRows(group, plan, info), told(error))
    return saver.failed


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
) -> list[Made]:
    began = time.monotonic()
    wanted = [group.group(model.image_size) for group in groups]
    keys = [group.inversion_key if group.inverts else "" for group in groups]
    paths = kept_paths(model, wanted, keys, plan.sampling, calls, info.cache_dir / "inversions")
    images = generate(model, wanted, plan.sampling, calls, paths, pipelines)
    seconds = (time.monotonic() - began) / len(groups)
    return [
        Made(RecordRows(group, plan, info), edited, _floors(group, model), seconds, tuple(model.warnings))
        for group, edited in zip(groups, images, strict=True)
    ]


def _floors(group: GroupPlan, model: Model) -> dict[str, Tensor]:
    """Return by pair its first ideal as the autoencoder gives it back.

    No edit can come nearer: it is the floor of errors to the ideal.
    """
    ideals = {branch.pair.id: branch.pair.ideal for branch in group.branches if branch.pair.ideal}
    return {
        pair: model.decode(model.encode(ideal_images(path)[0].read(model.image_size)[None]))[0]
        for pair, path in ideals.items()
    }
