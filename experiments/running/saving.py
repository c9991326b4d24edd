"""What was made is saved on a thread of its own, while the denoiser goes on: pictures, then their records.

One thread, so that records stand in the order in which groups were made; a group's pictures are encoded and
flushed side by side.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeAlias

from torch import Tensor
from tqdm import tqdm

from experiments.inputs.ideals import ideal_warnings, read_ideals
from experiments.inputs.masks import mask_digest, mask_warnings, read_mask
from experiments.planning.plan import Branch
from experiments.running.causes import told
from experiments.running.png_files import write_mask, write_png
from experiments.running.record_rows import RecordRows
from p2p.groups import Edited
from p2p.pictures import to_pil
from results.store.picture_files import Digest, write_picture
from results.store.records import record_rows
from results.store.row_files import RowFiles
from results.store.run_folder import ideal_path
from results.store.whole_files import no_room

_log = logging.getLogger(__name__)
AHEAD = 2
"""Batches whose images are held beside those in the making: one that is being saved, one that waits."""
WRITERS = 4
"""Pictures of a group that are encoded and flushed to the disk at a time."""
Row = dict[str, Any]
OnRecords: TypeAlias = Callable[[Sequence[Row]], object]


@dataclass(frozen=True)
class Made:
    """The images of a group, on the CPU, and what else its records tell."""

    rows: RecordRows
    edited: Edited
    floors: Mapping[str, Tensor]  # by pair, its first ideal as the autoencoder gives it back
    seconds: float  # that the group took
    of_model: Sequence[str]  # warnings for the records of what the model made


class Saver:
    """Saves groups in the order in which they are given, as a context that at its end has saved them all.

    Whoever is more than `AHEAD` batches ahead of the disk waits. A group that cannot be saved is recorded as
    failed, and the others go on; where nothing more can be written (`no_room`), the next call or the end of
    the context raises OSError. Where the context's body raises, the batch in hand is saved and the one that
    waits is dropped, so that the process ends within seconds.
    """

    def __init__(self, files: RowFiles, saved: OnRecords = lambda records: None) -> None:
        """Take what records are written to, and what is told the records of each batch when they are."""
        self.failed = 0  # groups, final at the end of the context
        self._files, self._saved = files, saved
        self._thread = ThreadPoolExecutor(1, "saving")
        self._pieces: deque[Future[None]] = deque()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        try:
            if kind is None:
                self._wait(0)
        finally:
            self._thread.shutdown(cancel_futures=True)

    def save(self, batch: Sequence[Made]) -> None:
        """Save each group of a batch, some time."""
        self._put(self._save, batch)

    def fail(self, rows: RecordRows, cause: str) -> None:
        """Record that a group failed, some time."""
        self._put(self._fail, rows, cause)

    def _put(self, work: Callable[..., None], *given: object) -> None:
        self._wait(AHEAD - 1)
        self._pieces.append(self._thread.submit(work, *given))

    def _wait(self, most: int) -> None:
        """Wait until at most so many pieces of work are left; raise what the others raised."""
        while self._pieces and (len(self._pieces) > most or self._pieces[0].done()):
            self._pieces.popleft().result()

    def _save(self, batch: Sequence[Made]) -> None:
        records = []
        for made in batch:
            try:
                rows = write_pictures(made)
                self._write(rows)
                records += rows
            except Exception as error:  # one group that cannot be saved must not lose the others
                if no_room(error):
                    raise
                _log.debug("its traceback:", exc_info=True)
                self._fail(made.rows, told(error))
        self._saved(records)

    def _fail(self, rows: RecordRows, cause: str) -> None:
        self.failed += 1
        record_failure(rows, cause, self._write)

    def _write(self, rows: Sequence[Row]) -> None:
        """Write a group's records, where there are any."""
        if rows:
            self._files.write(record_rows(rows))


def record_failure(rows: RecordRows, cause: str, write: OnRecords) -> None:
    """Tell and record that a group failed; where even that fails, say so, as the other groups still go on.

    OSError where nothing more can be written.
    """
    tqdm.write(f"failed: {rows.group.source_prompt!r}, seed {rows.group.seed}: {cause}")
    try:
        write([rows.failed(branch, cause) for branch in rows.group.branches])
    except Exception as error:
        if no_room(error):
            raise
        tqdm.write(f"its failure could not be recorded: {told(error)}")
        _log.debug("its traceback:", exc_info=True)


def write_pictures(made: Made) -> list[Row]:
    """Write a group's pictures, and its pairs' masks and ideals; return the records that are still to write.

    When it returns, each of these files is on the disk.
    """
    rows, group = made.rows, made.rows.group
    size = (made.edited.source.shape[-2], made.edited.source.shape[-1])
    of_masks = _write_masks(rows, size)
    _write_ideals(made)
    pictures = group.pictures()
    digests = _write_images(made, pictures)
    fitted = group.image.fitted(size) if group.image else ""
    records = []
    for picture in pictures:
        of_mask, told_mask = of_masks.get(picture.pair.id, ("", ""))
        warnings = [told_mask]
        if picture.method == "ideal":
            assert picture.pair.ideal is not None
            warnings.append(ideal_warnings(picture.pair.ideal, size))
        elif picture.method == "source":
            warnings.append(fitted)
        own = 0.0 if picture.given else made.seconds / len(group.branches)
        as_given = picture.method == "ideal" or (picture.method == "source" and group.image)
        if picture.trajectory.external is None and not as_given:
            warnings += made.of_model
        digest = digests[rows.path(picture)]
        if not rows.is_recorded(picture, digest):  # a source that an earlier call made is
            records.append(rows.made(picture, digest, own, "; ".join(filter(None, warnings)), of_mask))
    return records


def _write_images(made: Made, pictures: Sequence[Branch]) -> dict[str, Digest]:
    """Write the images of a group's pictures; return by path in the run folder its file's digest."""
    rows, edited = made.rows, made.edited
    edits = {b.identity: image for b, image in zip(rows.group.branches, edited.images, strict=True)}
    given = {"source": edited.source, "reconstruction": edited.reconstruction}
    images: dict[str, tuple[Tensor, Digest | None]] = {}
    for picture in pictures:
        if not picture.given:
            image = edits[picture.identity]
        elif picture.method == "ideal":
            image = made.floors[picture.pair.id]
        else:
            found = given[picture.method]
            assert found is not None
            image = found
        path, before = rows.path(picture), rows.info.recorded.get(picture.identity)
        if before or path not in images:  # one file may be recorded with one mask, and new with another
            images[path] = image, before.digest if before else None

    def write(path: str) -> Digest:
        image, before = images[path]
        return write_picture(rows.info.run_dir / path, to_pil(image), before)

    with ThreadPoolExecutor(WRITERS, "writing") as writers:
        return dict(zip(images, writers.map(write, images), strict=True))


def _write_masks(rows: RecordRows, size: tuple[int, int]) -> dict[str, tuple[str, str]]:
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


def _write_ideals(made: Made) -> None:
    """Keep the ideals of a group's pairs, in the size in which the model takes them."""
    rows = made.rows
    for branch in {b.pair.id: b for b in rows.group.branches if b.pair.ideal}.values():
        assert branch.pair.ideal is not None
        height, width = made.floors[branch.pair.id].shape[-2:]
        for number, ideal in enumerate(read_ideals(branch.pair.ideal, (height, width))):
            write_png(ideal, rows.info.run_dir / ideal_path(rows.ideals_folder(branch), number))
