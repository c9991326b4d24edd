"""The arguments of `p2p-bench run` and `plan`, made into what Hydra understands."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from experiments.configured import ONE_OF_SHARDS

MOST_SHARDS = 1000  # of the jobs of an array SLURM takes 1,001 unless told otherwise (MaxArraySize)


def parted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the overrides among arguments, and the flags.

    Hydra (1.3) takes overrides on one side of a flag alone. Raises ValueError for what is wrong with a flag.
    """

    def wrong(message: str) -> NoReturn:
        raise ValueError(f"{message}; `p2p-bench run --help` shows flags and keys")

    parser = get_args_parser()
    parser.error = wrong  # type: ignore[method-assign]
    overrides: list[str] = parser.parse_intermixed_args(list(arguments)).overrides
    flags = list(arguments)
    for one in overrides:
        flags.remove(one)
    return overrides, flags


def job_count(overrides: Sequence[str]) -> int:
    """Return how many jobs Hydra's own sweeper makes of overrides; 1 of what it will refuse."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        counts = [len(list(one.sweep_string_iterator())) for one in parsed if one.is_sweep_override()]
    except HydraException:  # what is wrong, or of another sweeper
        return 1
    return max(1, prod(counts))


def with_shards(arguments: Sequence[str]) -> list[str]:
    """Return arguments with `shards=n` spelled out: a multirun with a job for each of n shards.

    Raises ValueError for shards that cannot be.
    """
    given = [one.removeprefix("shards=") for one in arguments if one.startswith("shards=")]
    if not given or given[-1] == "null":
        return list(arguments)
    if any(one.startswith("shard=") for one in arguments):
        raise ValueError(ONE_OF_SHARDS)
    count = shard_count(int(given[-1]) if given[-1].isdecimal() else given[-1])
    each = ",".join(f"{index}/{count}" for index in range(count))
    rest = [one for one in arguments if not one.startswith("shards=")]
    return [*rest, f"shard={each}", *([] if {"-m", "--multirun"} & {*rest} else ["-m"])]


def shard_count(count: Any) -> int:
    """Return how many shards are asked for, 0 for none. Raises ValueError for what is no such number."""
    if count is None:
        return 0
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_SHARDS:
        raise ValueError(f"shards: {count!r} is not a whole number from 1 to {MOST_SHARDS}")
    return count
