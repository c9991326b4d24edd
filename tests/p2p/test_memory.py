"""Where memory runs out, less is asked for, and what the broken call held is free by then."""

import weakref
from functools import partial

import pytest
import torch
from torch import Tensor

from p2p.memory import attempt, in_calls


def test_a_call_that_fits_is_made_once() -> None:
    assert attempt(lambda: 3) == 3


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 5.56 GB). Tried to allocate 768.00 MB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_memory_runs_out_by_a_class_or_by_a_message(error: RuntimeError) -> None:
    def broken() -> None:
        raise error

    assert attempt(broken) is None
    with pytest.raises(torch.OutOfMemoryError, match="at one state: memory ran out .*"):
        attempt(broken, "at one state")


def test_the_cpu_s_own_error_is_known() -> None:
    assert attempt(partial(torch.empty, 10**15)) is None  # 4 PB, beyond any address space


def test_any_other_error_is_not_kept_from_the_caller() -> None:
    def broken() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="^mat1 and mat2 shapes cannot be multiplied$"):
        attempt(broken)


def test_the_last_error_is_one_line_with_its_cause() -> None:
    def broken() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTraceback of the allocator")

    with pytest.raises(torch.OutOfMemoryError) as error:
        attempt(broken, "autoencoder: to decode one image")
    assert str(error.value) == "autoencoder: to decode one image: memory ran out (CUDA out of memory.)"


def test_what_the_broken_call_held_is_free_when_the_cache_is_emptied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []

    def broken() -> None:
        activations = torch.ones(3)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(held[0]() is not None))
    assert attempt(broken) is None
    assert alive == [False]


def test_mps_has_a_cache_of_its_own_which_is_let_alone_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[int] = []
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: emptied.append(1))
    for available in (False, True):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=available: there)
        attempt(partial(torch.empty, 10**15))
        assert len(emptied) == available


@pytest.mark.parametrize(
    ("most", "fitting", "made"), [(8, 8, [8, 3]), (8, 3, [2] * 5 + [1]), (4, 1, [1] * 11), (1, 1, [1] * 11)]
)
def test_rows_are_halved_for_good_and_none_is_done_twice(most: int, fitting: int, made: list[int]) -> None:
    rows, done = torch.arange(11), []

    def call(part: Tensor) -> Tensor:
        if len(part) > fitting:
            raise torch.OutOfMemoryError("no memory for so many rows")
        done.append(len(part))
        return part * 10

    assert torch.equal(in_calls(call, rows, most, "rows"), rows * 10)
    assert done == made
