"""What all data sets share: a name, the filters, and checks that run before anything is computed."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from experiments.datasets.pair import Pair, filter_pairs, validate_pairs


@dataclass(frozen=True, kw_only=True)
class Dataset(ABC):
    """Pairs under a name. A child adds its own fields and `read`; constructing it touches no file.

    limit, ids, edit_types, per_type: see `filter_pairs`; None = all.
    """

    name: str
    limit: int | None = None
    ids: Sequence[str | int] | str | None = None
    edit_types: Sequence[str] | str | None = None
    per_type: int | None = None

    @abstractmethod
    def read(self) -> Iterable[Pair]:
        """Give all pairs, always in the same order."""

    def load(self) -> tuple[Pair, ...]:
        """Read and check all pairs, then keep those asked for; ValueError lists everything that is wrong."""
        pairs = tuple(self.read())
        validate_pairs(pairs)
        return filter_pairs(pairs, self.limit, self.ids, self.edit_types, self.per_type)
