"""Carry out a plan: images, then each group's records, so that a killed run continues where it stood."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
from torch import Tensor
from tqdm import tqdm

from experiments.inputs.ideals import ideal_warnings, read_ideals
from experiments.inputs.masks import check_sizes, mask_digest, mask_warnings, read_mask
from experiments.planning.plan import GroupPlan, Identity, Plan, without
from experiments.running.causes import told
from experiments.running.inversion_cache import kept_paths
from experiments.running.png_files import write_mask, write_png
from experiments.running.record_rows import Recorded, RecordRows, RunInfo, first_step
from p2p.engine import Edited, batches, generate
from p2p.families.model import Model
from p2p.loading.pipeline_spec import Pipelines
from p2p.pictures import to_pil
from p2p.sampling import Calls
from p2p.schedulers import noise_share
from results.store.picture_files import SUFFIXES, Digest, looks_whole, write_picture
from results.store.records import (
    PATH_COLUMNS,
    RECORD_IDENTITY,
    has_records,
    load_records,
    record_files,
    record_rows,
)
from results.store.row_files import RowFiles
from results.store.run_folder import ideal_path
from results.store.whole_files import no_room

_log = logging.getLogger(__name__)
OnRecords: TypeAlias = Callable[[Sequence[Mapping[str, Any]]], None]


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
    model.check_layers(one for g in plan.groups for b in g.branches for one in b.trajectory.layers)
    masked = {b.pair.id: b.pair for group in plan.groups for b in group.branches if b.pair.mask}
    if masked:
        check_sizes(masked.values(), (model.upscaler or model).image_size)


def run_plan(plan: Plan, model: Model, info: RunInfo, pipelines: Pipelines) -> int:
    """Make every image of the plan and its records; return the number of groups that failed."""
    info = replace(info, recorded=recorded_pictures(info.run_dir))
    with tqdm(total=plan.evaluations, desc="generating", unit="eval", smoothing=0.05) as bar:
        return make_groups(plan, model, info, pipelines, bar.update)


def make_groups(
    plan: Plan,
    model: Model,
    info: RunInfo,
    pipelines: Pipelines,
    on_rows: Callable[[int], object],
    on_records: OnRecords = lambda records: None,
) -> int:
    """Make every image of the plan and its records; return the number of groups that failed.

    A batch that fails is tried again group by group, so that one bad group is recorded with its cause and the
    others go on. OSError where nothing more can be written (`no_room`); what was recorded by then stays.
    `info.recorded` is what the store holds of the plan's pictures. `on_rows` is told the rows of each call of
    the denoiser, `on_records` the records of each group once they are written.
    """
    failed = 0
    info = replace(info, starts=_starts(plan, model))
    with record_files(info.run_dir) as files:
        info = replace(info, write=lambda rows: _write(files, rows, on_records))
        calls = Calls(plan.sampling.max_batch, on_rows)
        whole = [group.group() for group in plan.groups]
        for numbers in batches(whole, plan.sampling, plan.model.guidance_embedded):
            groups = [plan.groups[i] for i in numbers]
            try:
                _make(groups, plan, model, info, calls, pipelines)
                continue
            except Exception as error:  # whatever breaks one group must not lose the others
                if no_room(error):
                    raise
                cause = told(error)
                _log.warning("a batch of %d groups failed, each is tried alone: %s", len(groups), cause)
                _log.debug("its traceback:", exc_info=True)
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
            if no_room(error):
                raise
            failed += 1
            cause = told(error)
            tqdm.write(f"failed: {group.source_prompt!r}, seed {group.seed}: {cause}")
            _log.debug("its traceback:", exc_info=True)
            record_failure(RecordRows(group, plan, info), cause)
    return failed


def record_failure(rows: RecordRows, cause: str) -> None:
    """Record that a group failed; where even that fails, say so, as the other groups still go on."""
    try:
        rows.info.write([rows.failed(branch, cause) for branch in rows.group.branches])
    except Exception as error:
        if no_room(error):
            raise
        tqdm.write(f"its failure could not be recorded: {told(error)}")
        _log.debug("its traceback:", exc_info=True)


def _save_masks(rows: RecordRows, size: tuple[int, int]) -> dict[str, tuple[str, str]]:
    """Keep the masks of a group's pairs, in the size (height, width) of its pictures.

    Returns by pair the mask's digest in that size, and warnings.
    """
    kept = {}
    for branch in {b.pair.id: b for b in rows.group.branches if b.pair.mask}.values():
        pair = branch.pair
        assert pair.mask is not None
        mask = read_mask(pair.mask, pair.id, size, pair.image)
        write_mask(mask, rows.info.run_dir / rows.mask_path(branch))
        kept[pair.id] = (mask_digest(mask), mask_warnings(pair.mask, pair.id))
    return kept


def _save(
    rows: RecordRows, edited: Edited, ideals: Mapping[str, Tensor], seconds: float, of_model: Sequence[str]
) -> None:
    """Write a group's pictures and the masks of its pairs, then its records; it took `seconds`.

    The records of what the model made hold the warnings `of_model`.
    """
    group, run_dir = rows.group, rows.info.run_dir
    size = (edited.source.shape[-2], edited.source.shape[-1])
    of_masks = _save_masks(rows, size)
    fitted = group.image.fitted(size) if group.image else ""
    edits = {b.identity: image for b, image in zip(group.branches, edited.images, strict=True)}
    records = []
    for picture in group.pictures():
        of_mask, told_mask = of_masks.get(picture.pair.id, ("", ""))
        warnings = [told_mask]
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
        before = rows.info.recorded.get(picture.identity)
        told = before.digest if before else None
        digest = write_picture(run_dir / rows.path(picture), to_pil(image), told)
        own = 0.0 if picture.given else seconds / len(group.branches)
        as_given = picture.method == "ideal" or (picture.method == "source" and group.image)
        if picture.trajectory.external is None and not as_given:
            warnings += of_model
        if not rows.is_recorded(picture, digest):  # a source that an earlier call made is
            records.append(rows.made(picture, digest, own, "; ".join(filter(None, warnings)), of_mask))
    rows.info.write(records)


def _write(files: RowFiles, rows: Sequence[Mapping[str, Any]], on_records: OnRecords) -> None:
    """Write a group's records, where there are any, and tell of them."""
    if rows:
        files.write(record_rows(rows))
        on_records(rows)
