"""Garbage is looked for less often inside, and as before behind, whatever happened."""

import gc
from collections.abc import Iterator

import pytest

from results.collector import seldom_collected


@pytest.fixture
def usual() -> Iterator[tuple[int, int, int]]:
    before = gc.get_threshold()
    yield before
    gc.set_threshold(*before)


def test_thresholds_are_put_back_where_the_work_fails(usual: tuple[int, int, int]) -> None:
    @seldom_collected()
    def work(then: int) -> float:
        assert gc.get_threshold() == (100_000, *usual[1:])
        with seldom_collected():
            assert gc.get_threshold() == (100_000, *usual[1:])
        assert gc.get_threshold() == (100_000, *usual[1:])
        return 1 / then

    for _ in range(2):
        work(1)
        with pytest.raises(ZeroDivisionError):
            work(0)
        assert gc.get_threshold() == usual


@pytest.mark.parametrize("own", [0, 500_000])
def test_a_caller_who_collects_never_or_less_often_keeps_to_that(
    own: int, usual: tuple[int, int, int]
) -> None:
    gc.set_threshold(own, 5, 5)
    with seldom_collected():
        assert gc.get_threshold() == (own, 5, 5)
    assert gc.get_threshold() == (own, 5, 5)
