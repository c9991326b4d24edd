"""A copy of a finished run in Weights & Biases; the only file that knows it, and it imports it on use.

The run folder stays the truth. Offline by default; `wandb sync <run_dir>/wandb/offline-run-*` sends it.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
from PIL import Image

from results.store.run_folder import RunFolder

_log = logging.getLogger(__name__)
Mode = Literal["offline", "online", "disabled"]


@dataclass(frozen=True)
class Wandb:
    """Where and how to log; ValueError for a `mode` other than offline, online, disabled."""

    project: str
    mode: Mode = "offline"
    entity: str | None = None
    group: str | None = None
    job_type: str | None = None
    tags: tuple[str, ...] = ()
    thumbnail_side: int = 1024  # pixels; larger pictures are reduced before they are sent
    timeout: float = 30.0  # seconds to wait for the server, at the start and at the end

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"tracking.mode: {self.mode!r} is not one of {', '.join(get_args(Mode))}")
        object.__setattr__(self, "tags", tuple(self.tags))  # a YAML list arrives as a list

    def log_run(
        self,
        run_dir: Path,
        config: dict[str, Any],
        tables: Mapping[str, pd.DataFrame],
        images: Mapping[str, Path],
    ) -> str:
        """Log config, tables and thumbnails once; return the run's id, which depends on the config alone.

        A second call replaces the offline copy, and continues the same run on the server. If the server
        cannot be reached, logs offline and warns.
        """
        run_dir = Path(run_dir).resolve()
        run_id = _run_id(config)
        for stale in RunFolder(run_dir).wandb.glob(f"offline-run-*-{run_id}"):
            shutil.rmtree(stale)
        with _environment(run_dir, self.timeout):
            run = self._start(run_dir, config, run_id)
            content: dict[str, Any] = {f"tables/{name}": _table(frame) for name, frame in tables.items()}
            content |= {name: _thumbnail(path, self.thumbnail_side) for name, path in images.items()}
            # One call: a table cannot be changed after it was logged.
            run.log(content)
            run.finish()
        return run_id

    def _start(self, run_dir: Path, config: dict[str, Any], run_id: str) -> Any:
        import wandb

        def init(mode: Mode) -> Any:
            return wandb.init(
                project=self.project, entity=self.entity, group=self.group, job_type=self.job_type,
                tags=list(self.tags), name=run_dir.name, id=run_id, config=config, mode=mode,
                resume="allow" if mode == "online" else None, dir=str(run_dir),
            )  # fmt: skip

        if self.mode != "online":
            return init(self.mode)
        try:
            return init("online")
        except wandb.errors.Error as error:  # CommError, and UsageError where no key is set
            _log.warning(
                "W&B cannot be reached (%s); logging offline to %s",
                str(error).splitlines()[0],
                RunFolder(run_dir).wandb,
            )
            wandb.teardown()  # else the failed attempt still holds the run's id
            return init("offline")


def _run_id(config: dict[str, Any]) -> str:
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _table(frame: pd.DataFrame) -> Any:
    """Copy a frame with the types W&B knows: text, float, None for a missing value."""
    import wandb

    columns = [str(name) for name in frame.columns]
    rows = [[_plain(value) for value in row] for row in frame.astype(object).itertuples(index=False)]
    return wandb.Table(columns=columns, data=rows, allow_mixed_types=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if pd.isna(value):
        return None
    return value if isinstance(value, str) else float(value)


def _thumbnail(path: Path, side: int) -> Any:
    import wandb

    with Image.open(path) as image:
        picture = image.convert("RGB")
    picture.thumbnail((side, side))
    return wandb.Image(picture, caption=path.stem)


@contextmanager
def _environment(run_dir: Path, timeout: float) -> Iterator[None]:
    """Keep every file of W&B inside the run folder, and its threads from waiting for a lost server for ever.

    A table is staged in the data folder by absolute path, and a later `wandb sync` still needs it.
    """
    on = dict.fromkeys(("SILENT", "DISABLE_GIT", "DISABLE_CODE", "X_DISABLE_STATS", "X_DISABLE_META"), "true")
    folders = {
        f"{name}_DIR": str(RunFolder(run_dir).wandb / name.lower()) for name in ("DATA", "CACHE", "CONFIG")
    }
    waits = dict.fromkeys(("INIT_TIMEOUT", "FINISH_TIMEOUT"), str(timeout))
    own = {**on, **folders, **waits, "DIR": str(run_dir), "CONSOLE": "off", "ERROR_REPORTING": "false"}
    ours = {f"WANDB_{name}": value for name, value in own.items()}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
