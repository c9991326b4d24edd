"""Where everything of a run folder lies: each of its paths is written here, and README lists them.

Records name pictures by paths relative to the run folder; those are text, with `/`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from results.spelling import spell_number

_LONGEST = 60  # letters of a picture's name before its key


class RunFolder:
    """The paths of a run folder. Nothing is created, and nothing need be there."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    @property
    def images(self) -> Path:
        """The folder of pictures, a folder per pair in it."""
        return self.root / "images"

    @property
    def records(self) -> Path:
        """The folder of records, one row per picture."""
        return self.root / "records"

    @property
    def settings(self) -> Path:
        """The folder of which settings each picture stands for, a file per plan."""
        return self.root / "settings"

    def asked_file(self, asked: str) -> Path:
        """Return the file that names the whole plan of a sharded run; `asked` hashes what is asked for."""
        return self.settings / f"{asked}.json"

    @property
    def metrics(self) -> Path:
        """The folder of metric values, a folder per family in it; a family's name may hold `/`."""
        return self.root / "metrics"

    def metrics_folder(self, family: str) -> Path:
        """Return the folder of a metric family's values."""
        return self.metrics / family

    def weights_file(self, family: str) -> Path:
        """Return the file with the hash of the weights that gave a metric family's values."""
        return self.metrics / family / "weights.sha256"

    def columns_file(self, family: str) -> Path:
        """Return the file of what is known of a metric family's columns."""
        return self.metrics / family / "columns.json"

    @property
    def candidates(self) -> Path:
        """The folder of which pictures `tau: auto` chooses from, a file per plan."""
        return self.root / "auto_tau" / "candidates"

    @property
    def chosen(self) -> Path:
        """The file of what `tau: auto` chose."""
        return self.root / "auto_tau" / "chosen.parquet"

    @property
    def tables(self) -> Path:
        """The folder of tables, each in several formats."""
        return self.root / "tables"

    @property
    def summary(self) -> Path:
        """The file of what a run prints at its end."""
        return self.tables / "summary.md"

    @property
    def made_from(self) -> Path:
        """The file of what tables, plots and strips were made of, by which a later call leaves them."""
        return self.tables / "made_from.json"

    @property
    def plots(self) -> Path:
        """The folder of plots."""
        return self.root / "plots"

    @property
    def strips(self) -> Path:
        """The folder of picture strips."""
        return self.root / "strips"

    @property
    def report(self) -> Path:
        """The folder of the report: `index.html` and its thumbnails."""
        return self.root / "report"

    @property
    def study(self) -> Path:
        """The folder of a study with people: its page, the key to it, answers, what they say."""
        return self.root / "study"

    @property
    def heat_maps(self) -> Path:
        """The folder of word heat-maps of the run's pairs, where somebody had them drawn."""
        return self.root / "heat_maps"

    @property
    def provenance(self) -> Path:
        """The folder of configuration, code, versions and hardware, a file per call."""
        return self.root / "provenance"

    @property
    def first_provenance(self) -> Path:
        """The file of a list of calls, from before each call had a file of its own."""
        return self.root / "provenance.json"

    @property
    def wandb(self) -> Path:
        """The folder of the copy for Weights & Biases."""
        return self.root / "wandb"


def pair_folder(pair: str, seed: int | None = None) -> str:
    """Return the folder of a pair, given the slug of its id, or of the pair's pictures of one seed."""
    return f"images/{pair}" if seed is None else f"images/{pair}/{seed}"


def picture_path(
    folder: str, name: str, key: str, params: Mapping[str, Any] | None = None, suffix: str = ".png"
) -> str:
    """Return a picture's path in a `pair_folder`: `name` is a method or "mask", `key` a content key.

    The parameters of the method stand between them for readers, as far as they are short: the key alone
    tells two pictures apart.
    """
    settings = [f"{parameter}{text}" for parameter, value in (params or {}).items() if (text := _told(value))]
    readable = "-".join(map(_readable, [name, *settings]))[:_LONGEST].strip("-._")
    return f"{folder}/{readable}-{key[:16]}{suffix}"


def _told(value: Any) -> str:
    """Spell a parameter's value in a file's name; a text that may be a path or a sentence is left out."""
    if isinstance(value, bool) or value is None:
        return f"-{value}"
    if isinstance(value, int | float):
        return spell_number(value).replace("e+", "e")
    if isinstance(value, str):
        return f"-{value}" if len(value) <= 16 and "/" not in value else ""
    if isinstance(value, Mapping):
        return "".join(f"-{name}{_told(entry)}" for name, entry in value.items())
    if isinstance(value, Sequence):
        return "-" + "-".join(_told(entry).lstrip("-") for entry in value)
    return ""


def _readable(text: str) -> str:
    """Make text safe in a file's name, on case-blind file systems too."""
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-._")


def ideals_folder(folder: str, name: str) -> str:
    """Return the folder of a pair's ideals in a `pair_folder`."""
    return f"{folder}/ideal-{name}"


def ideal_path(folder: str, number: int) -> str:
    """Return the path of one picture in an `ideals_folder`."""
    return f"{folder}/{number:03d}.png"
