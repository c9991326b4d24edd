"""A copy of a run in Weights & Biases; the only file that knows it, and it imports it on use.

The run folder stays the truth. Offline by default; the command that sends what was copied is printed.
"""

import hashlib
import json
import logging
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
from PIL import Image

from results.run_keys import CARRIED_OUT, PART, PLACES, SHOWN
from results.store.records import RECORD_IDENTITY, metric_columns
from results.store.run_folder import RunFolder
from results.store.whole_files import write_whole
from results.tables.cells import GIVEN, with_cells

_log = logging.getLogger(__name__)
Mode = Literal["offline", "online", "disabled"]
NOT_THE_RUN = ("tracking", *PART)
"""Keys of a configuration that make no other run: where it is copied to, and which part a call makes."""
_NOT_THE_SETTING = ("experiment", *PLACES, *SHOWN, *CARRIED_OUT, *PART)
_LONGEST = 128  # letters of a run's name, which W&B takes


@dataclass(frozen=True)
class Call:
    """What a call of `run` made: its configuration, its rows, and what stands in its folder.

    `rows` are records with a column per metric (`results.store.records.load`), those of the call's plan or
    shard alone. `shard` is (i, n) for the copy of a shard. `sweep`: the call is one of a multirun's jobs.
    """

    config: Mapping[str, Any]
    rows: pd.DataFrame
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    images: Mapping[str, Path] = field(default_factory=dict)
    command: str = ""
    shard: tuple[int, int] | None = None
    sweep: bool = False

    @property
    def run_id(self) -> str:
        """What W&B knows the run by: the same for each call of one configuration, and one for each shard."""
        kept = {key: value for key, value in self.config.items() if key not in NOT_THE_RUN}
        content = [kept, *([list(self.shard)] if self.shard else [])]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """Say the experiment, what the command line changes of it, and the shard."""
        changed = [one for one in shlex.split(self.command)[2:] if "=" in one and not one.startswith("-")]
        told = [one for one in changed if re.split(r"[.=@/]", one.lstrip("+~"))[0] not in _NOT_THE_SETTING]
        if self.shard:
            told.insert(0, f"shard {self.shard[0]} of {self.shard[1]}")
        name = ": ".join(filter(None, (str(self.config.get("name", "run")), ", ".join(told))))
        return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"

    @property
    def job_type(self) -> str:
        """Say what kind of run it is; those of one experiment are a group."""
        return "shard" if self.shard else "sweep" if self.sweep else "run"


@dataclass(frozen=True)
class Wandb:
    """Where and how to log; ValueError for a `mode` other than offline, online, disabled.

    `group` and `job_type` are by default the experiment's name, and run, sweep or shard.
    """

    project: str
    mode: Mode = "offline"
    entity: str | None = None
    group: str | None = None
    job_type: str | None = None
    tags: tuple[str, ...] = ()
    thumbnail_side: int = 1024  # pixels; larger plots and strips are reduced before they are sent
    picture_side: int = 256  # pixels; larger sources and edits are
    most_pictures: int = 1000  # edits that the table of images shows; the others are rows without pictures
    timeout: float = 30.0  # seconds to wait for the server, at the start and at the end

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"tracking.mode: {self.mode!r} is not one of {', '.join(get_args(Mode))}")
        for name, least in (("thumbnail_side", 1), ("picture_side", 1), ("most_pictures", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"tracking.{name}: {getattr(self, name)!r} is below {least}")
        object.__setattr__(self, "tags", tuple(self.tags))  # a YAML list arrives as a list

    def log_run(self, run_dir: Path, call: Call) -> str:
        """Copy a call once; return the run's id.

        Scalars go into history and summary, beside them a row per image with thumbnails, tables, plots, and
        as artifacts records and report. A copy of equal content is left as it is; another one replaces the
        offline copy, and on the server continues the same run. If the server cannot be reached, logs offline
        and warns. The command that sends an offline copy is printed.
        """
        run_dir = Path(run_dir).resolve()
        staging = RunFolder(run_dir).wandb / call.run_id
        marker = staging / "copied.json"
        content = {"content": _digest(run_dir, call), "mode": self.mode, "project": self.project}
        if not _is_copied(marker, content, _offline_copies(run_dir, call.run_id)):
            for stale in (*_offline_copies(run_dir, call.run_id), staging):
                shutil.rmtree(stale, ignore_errors=True)
            with _environment(run_dir, staging, self.timeout):
                run = self._start(run_dir, call)
                self._log(run, run_dir, call)
                run.finish()
            write_whole(marker, json.dumps(content))
        for copy in _offline_copies(run_dir, call.run_id):
            print(f"W&B: {call.name}; to send it: wandb sync {shlex.quote(str(copy))}")
        return call.run_id

    def _log(self, run: Any, run_dir: Path, call: Call) -> None:
        run.define_metric("*", step_metric="pictures")  # a resumed run goes on where it has more of them
        cells = with_cells(call.rows)
        content: dict[str, Any] = {**_counts(call.rows), **_means(cells)}
        content["images"] = self._image_table(run_dir, cells)
        content |= {f"tables/{name}": _table(frame) for name, frame in call.tables.items()}
        content |= {name: _thumbnail(path, self.thumbnail_side) for name, path in call.images.items()}
        # One call: a table cannot be changed after it was logged.
        run.log(content)
        if not call.shard:
            _log_artifacts(run, run_dir, call)

    def _image_table(self, run_dir: Path, cells: pd.DataFrame) -> Any:
        """Return a row per edit, with thumbnails of source and edit for the first `most_pictures`."""
        import wandb

        metrics = metric_columns(cells)
        edits = cells[~cells["method"].isin(GIVEN)].drop_duplicates(RECORD_IDENTITY)
        told = ["pair_id", "seed", "method", "setting", "inversion", "edit_type", "source_prompt"]
        told += ["target_prompt", "status", "error"]
        table = wandb.Table(columns=["source", "edit", *told, *metrics], allow_mixed_types=True)
        sources: dict[str, Any] = {}
        for number, row in enumerate(edits.to_dict("records")):
            pictures = [None, None]
            if number < self.most_pictures and row["status"] == "ok":
                if row["source_image"] not in sources:
                    sources[row["source_image"]] = _picture(run_dir / row["source_image"], self.picture_side)
                pictures = [sources[row["source_image"]], _picture(run_dir / row["image"], self.picture_side)]
            table.add_data(*pictures, *(_plain(row[name]) for name in (*told, *metrics)))
        return table

    def _start(self, run_dir: Path, call: Call) -> Any:
        import wandb

        config = {**call.config, "command": call.command}
        group = self.group or str(call.config.get("name", ""))

        def init(mode: Mode) -> Any:
            return wandb.init(
                project=self.project, entity=self.entity, group=group, tags=list(self.tags),
                job_type=self.job_type or call.job_type, name=call.name, id=call.run_id, config=config,
                mode=mode, resume="allow" if mode == "online" else None, dir=str(run_dir),
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


def _offline_copies(run_dir: Path, run_id: str) -> list[Path]:
    return sorted(RunFolder(run_dir).wandb.glob(f"offline-run-*-{run_id}"))


def _is_copied(marker: Path, content: Mapping[str, str], copies: list[Path]) -> bool:
    """Say whether a copy of this content is there, or was sent."""
    try:
        before = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    # One that was to be sent and is here could not be: it is tried again.
    return bool(before == content and bool(copies) == (content["mode"] == "offline"))


def _digest(run_dir: Path, call: Call) -> str:
    """Return a hash of what is copied of a call: rows, tables, pictures' bytes, and the report's page."""
    digest = hashlib.sha256(json.dumps([call.config, call.command], sort_keys=True, default=str).encode())
    frames = {"rows": call.rows, **call.tables}
    for name in sorted(frames):
        digest.update(name.encode() + frames[name].to_csv(index=False).encode())
    page = RunFolder(run_dir).report / "index.html"
    for path in (*(call.images[name] for name in sorted(call.images)), page):
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()


def _counts(rows: pd.DataFrame) -> dict[str, float]:
    images = rows.drop_duplicates(RECORD_IDENTITY)
    ok = images["status"].eq("ok")
    return {"pictures": int(ok.sum()), "failed": int((~ok).sum()), "seconds": float(images["seconds"].sum())}


def _means(cells: pd.DataFrame) -> dict[str, float]:
    """Return each setting's mean of each metric, pairs counting alike, by names that W&B can sort by."""
    edits = cells[~cells["method"].isin(GIVEN)]
    metrics = metric_columns(edits)
    by = ["method", "inversion", "setting"]
    if not metrics or edits.empty:
        return {}
    means = (
        edits.groupby([*by, "pair_id"], dropna=False)[metrics].mean().groupby(level=by, dropna=False).mean()
    )
    return {
        # A dot in a name would be taken for a level of the summary.
        f"{metric}/{', '.join(filter(None, cell))}".replace(".", "_"): float(value)
        for metric in metrics
        for cell, value in means[metric].dropna().items()
    }


def _log_artifacts(run: Any, run_dir: Path, call: Call) -> None:
    """Log records, values and settings, and the report with what it was made of.

    Offline W&B keeps no inputs of a run (`use_artifact` raises), so the report names its records itself.
    """
    import wandb

    folder = RunFolder(run_dir)
    made = {"run": call.run_id, "command": call.command, **_counts(call.rows)}
    records = wandb.Artifact(f"records-{call.run_id}", type="records", metadata=made)
    for part in (folder.records, folder.metrics, folder.settings, folder.provenance):
        if part.is_dir():
            records.add_dir(str(part), name=part.name)
    run.log_artifact(records)
    if (folder.report / "index.html").exists():
        of = {"made_of": {"artifact": records.name, "digest": records.digest}}
        report = wandb.Artifact(f"report-{call.run_id}", type="report", metadata={**made, **of})
        report.add_dir(str(folder.report))
        run.log_artifact(report)


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


def _thumbnail(path: Path, side: int, file_type: Literal["png", "jpg"] = "png") -> Any:
    import wandb

    with Image.open(path) as image:
        picture = image.convert("RGB")
    picture.thumbnail((side, side))
    return wandb.Image(picture, caption=path.stem, file_type=file_type)


def _picture(path: Path, side: int) -> Any:
    """Return a thumbnail of a run's picture; None where it cannot be read, as its row tells the rest."""
    try:
        return _thumbnail(path, side, "jpg")
    except (OSError, ValueError, SyntaxError) as error:
        _log.warning("%s: not in the copy for W&B (%s)", path, error)
        return None


@contextmanager
def _environment(run_dir: Path, staging: Path, timeout: float) -> Iterator[None]:
    """Keep every file of W&B inside the run folder, and its threads from waiting for a lost server for ever.

    Tables and artifacts are staged in the data folder by absolute path, and a later `wandb sync` still needs
    them.
    """
    on = dict.fromkeys(("SILENT", "DISABLE_GIT", "DISABLE_CODE", "X_DISABLE_STATS", "X_DISABLE_META"), "true")
    folders = {f"{name}_DIR": str(staging / name.lower()) for name in ("DATA", "CACHE", "CONFIG")}
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
