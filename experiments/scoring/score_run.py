"""Score the saved pictures of a run: every record without a value gets one, or a reason."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from evaluation.edits import Edits
from evaluation.metric import Metric
from experiments.inputs.masks import mask_digest, read_mask
from experiments.running.causes import told
from experiments.running.png_files import read_png
from results.store.metric_columns import write_columns
from results.store.picture_files import DamagedPicture, Digest
from results.store.records import has_records, load_records, metric_files, metric_rows, scored_keys
from results.store.row_files import RowFiles
from results.store.run_folder import RunFolder
from results.store.whole_files import no_room, set_aside, write_whole

_log = logging.getLogger(__name__)
BATCH = 64
"""Pictures that a metric is given at a time."""


def check_metrics(metrics: Sequence[Metric], run_dir: Path) -> None:
    """Raise in one line where a metric's weights cannot be had, or two metrics give the same column.

    Also where the run holds values that other weights gave under the same name: a mean over both is none.
    """
    names = [name for metric in metrics for name in metric.names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"metrics: {', '.join(twice)} would be computed twice, allowed is once")
    for metric in metrics:
        metric.check()
        file = RunFolder(run_dir).weights_file(metric.name)
        told = _told_weights(file)
        if told and told != _weights(metric):
            raise ValueError(
                f"metrics: {file.parent} holds values of other weights, allowed are the same ones; give the "
                "metric another version, or delete that folder to compute its values anew"
            )


def _told_weights(file: Path) -> str:
    """Return the hash that a file holds, "" where it is missing or damaged."""
    content = file.read_bytes() if file.exists() else b""
    return content.decode() if re.fullmatch(rb"[0-9a-f]{64}", content) else ""


def start_values(run_dir: Path, metric: Metric) -> None:
    """Keep in the run folder what a metric's values are of, before there are any."""
    _keep_weights(run_dir, metric)
    write_columns(run_dir, metric.name, metric.names, metric.higher_is_better)


def _keep_weights(run_dir: Path, metric: Metric) -> None:
    """Keep which weights give a metric's values, before there are any, so that none is ever without."""
    file = RunFolder(run_dir).weights_file(metric.name)
    if not _told_weights(file):
        # An older version's folder may hold columns of the same names.
        if any(file.parent.glob("*.parquet")):
            _log.warning(
                "%s: missing or damaged; the values beside it are taken to be of the weights at hand, delete "
                "%s if they are not",
                file,
                file.parent,
            )
        write_whole(file, _weights(metric))


def _weights(metric: Metric) -> str:
    """Return a hash of the weights in a metric's folder, or of nothing if it fetches them by name."""
    folder = getattr(metric, "folder", None)
    digest = hashlib.sha256()
    files = sorted(Path(folder).glob("*.safetensors")) if folder else []
    for file in files or (sorted(Path(folder).glob("*.bin")) if folder else []):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def evaluate_run(
    run_dir: Path, metrics: Sequence[Metric], keys: Collection[str], batch_size: int = BATCH
) -> int:
    """Compute the values that images with these keys lack, group by group; return how many groups failed.

    Metrics read the 8-bit pictures. Values that are there stay; new values are written within seconds. A
    group that fails is logged and left for the next call.
    """
    todo = to_score(run_dir, metrics, keys)
    count = sum(left["group"].nunique() for left in todo)
    with tqdm(total=count, desc="evaluating", unit="group", disable=not count) as bar:
        return evaluate_records(run_dir, metrics, todo, batch_size, bar.update)


def to_score(run_dir: Path, metrics: Sequence[Metric], keys: Collection[str]) -> list[pd.DataFrame]:
    """Return for each metric the successful records with these keys that lack a value or a reason."""
    if not has_records(run_dir):
        return []
    records = load_records(run_dir)
    scored = scored_keys(run_dir, [metric.names for metric in metrics])
    for metric, (_, any_value) in zip(metrics, scored, strict=True):
        if any_value:
            start_values(run_dir, metric)
    return lacking(records, keys, [whole for whole, _ in scored])


def lacking(
    records: pd.DataFrame, keys: Collection[str], scored: Sequence[Collection[str]]
) -> list[pd.DataFrame]:
    """Return the successful records with these keys, once without each of the collections of scored keys."""
    records = with_source_digests(records[records["status"] == "ok"])
    records = records[records["key"].isin(list(keys))].drop_duplicates("key")
    return [records[~records["key"].isin(list(whole))] for whole in scored]


def evaluate_records(
    run_dir: Path,
    metrics: Sequence[Metric],
    todo: Sequence[pd.DataFrame],
    batch_size: int = BATCH,
    on_group: Callable[[], object] = lambda: None,
) -> int:
    """Score for each metric the records that `lacking` gives of it; return how many groups failed."""
    failed = 0
    for metric, left in zip(metrics, todo, strict=bool(todo)):
        if left.empty:
            continue
        start_values(run_dir, metric)
        with metric_files(run_dir, metric.name) as files:
            for group, rows in left.groupby("group", sort=False):
                failed += not _scored(run_dir, metric, str(group), parted(rows, batch_size), files)
                on_group()
    return failed


def unscored(run_dir: Path, metrics: Sequence[Metric], keys: Collection[str]) -> int:
    """Return how many successful pictures with these keys lack a value, and a reason, of any metric."""
    if not has_records(run_dir):
        return 0
    records = load_records(run_dir)
    made = set(records.loc[records["status"] == "ok", "key"]) & set(keys)
    scored = scored_keys(run_dir, [metric.names for metric in metrics])
    return len(set().union(*(made - whole for whole, _ in scored)))


def parted(rows: pd.DataFrame, size: int) -> list[pd.DataFrame]:
    """Part records into batches of at most a size, those with a mask from those without one."""
    parts = [part for _, part in rows.groupby(rows["mask"].ne(""))]
    return [part.iloc[i : i + size] for part in parts for i in range(0, len(part), size)]


def _scored(
    run_dir: Path, metric: Metric, group: str, batches: Sequence[pd.DataFrame], files: RowFiles
) -> bool:
    """Score a group and give its values to be written; log it and return False where it fails."""
    try:
        for batch in batches:
            files.gather(metric_rows(score(run_dir, metric, batch), metric.name))
    except Exception as error:  # one group that cannot be scored must not lose the others
        if no_room(error):
            raise
        if isinstance(error, DamagedPicture) and error.path.exists():
            aside = set_aside(error.path)
            _log.warning("%s of %s failed: %s; it is now %s", metric.name, group, error, aside.name)
        else:
            _log.warning("%s of %s failed: %s", metric.name, group, told(error))
        _log.debug("its traceback:", exc_info=True)
        return False
    return True


def score(run_dir: Path, metric: Metric, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return long rows (key, metric, value, reason) of one metric family for some records."""
    return value_rows(metric, read_edits(run_dir, rows), rows["key"])


def read_edits(run_dir: Path, rows: pd.DataFrame) -> Edits:
    """Return the pictures of some records as the input of metrics.

    Either all of the records have a mask or none has. DamagedPicture where a picture or a mask is not the one
    that was recorded.
    """
    sources = list(dict.fromkeys(rows["source_image"]))
    digests = {row.image: Digest(row.image_sha256, int(row.image_bytes)) for row in rows.itertuples()}
    digests |= {row.source_image: row.source_digest for row in rows.itertuples()}
    images = _load(run_dir, rows["image"], digests)
    return Edits(
        images=images,
        source_images=_load(run_dir, sources, digests),
        source_index=torch.tensor([sources.index(path) for path in rows["source_image"]]),
        source_prompts=tuple(map(str, rows["source_prompt"])),
        target_prompts=tuple(map(str, rows["target_prompt"])),
        masks=_masks(run_dir, rows, images.shape[-2:]) if rows["mask"].ne("").any() else None,
        ideals=_ideals(run_dir, rows["ideal"]),
    )


def value_rows(metric: Metric, edits: Edits, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Return long rows (key, metric, value, reason) of one metric family for edits with these keys."""
    return [
        {"key": key, "metric": name, "value": value, "reason": reason}
        for name, scores in metric(edits).items()
        for key, value, reason in zip(keys, scores.values.tolist(), scores.reasons, strict=True)
    ]


def with_source_digests(records: pd.DataFrame) -> pd.DataFrame:
    """Add the column `source_digest`, what the records tell of each one's source image."""
    columns = (records[name] for name in ("image", "image_sha256", "image_bytes"))
    told = {image: Digest(sha256, int(size)) for image, sha256, size in zip(*columns, strict=True)}
    return records.assign(source_digest=[told.get(path, Digest()) for path in records["source_image"]])


def _load(run_dir: Path, paths: Sequence[str], told: Mapping[str, Digest] | None = None) -> torch.Tensor:
    pictures = [read_png(run_dir / path, (told or {}).get(path)) for path in paths]
    return torch.from_numpy(np.stack(pictures))


def _ideals(run_dir: Path, folders: Sequence[str]) -> tuple[torch.Tensor | None, ...]:
    """Return each record's ideals (pictures, 3, height, width); a folder is read once."""
    read = {
        folder: _load(run_dir, sorted(f"{folder}/{file.name}" for file in (run_dir / folder).glob("*.png")))
        for folder in dict.fromkeys(folders)
        if folder
    }
    return tuple(read.get(folder) for folder in folders)


def _masks(run_dir: Path, rows: pd.DataFrame, size: Sequence[int]) -> torch.Tensor:
    """Return the records' masks (N, 1, height, width) bool; DamagedPicture where one is not as recorded."""
    height, width = size
    masks = []
    for path, pair_id, told_digest in zip(rows["mask"], rows["pair_id"], rows["mask_digest"], strict=True):
        try:
            mask = read_mask(run_dir / path, pair_id, (height, width))
        except ValueError as error:  # no picture, or not of the size in which the run kept it
            raise DamagedPicture(run_dir / path, f"is not the mask of its record ({error})") from error
        if told_digest and mask_digest(mask) != told_digest:
            raise DamagedPicture(run_dir / path, "is not the mask that its record tells of")
        masks.append(mask)
    return torch.from_numpy(np.stack(masks))[:, None]
