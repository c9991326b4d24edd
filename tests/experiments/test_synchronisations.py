"""A count of how often a call waits for the GPU."""

import pytest
import torch

from experiments.bench.synchronisations import count_synchronisations


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_it_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^device: torch sees no CUDA device, allowed is .* on CUDA alone$"):
        count_synchronisations(lambda: None)


@pytest.mark.gpu
def test_each_wait_counts_and_the_mode_is_restored() -> None:
    ones = torch.ones(3, device="cuda")
    before = torch.cuda.get_sync_debug_mode()

    def three() -> None:
        for _ in range(2):
            ones.sum().item()
        torch.tensor([0, 1], device="cuda")
        torch.cuda.synchronize()

    assert count_synchronisations(lambda: ones + ones) == 0
    assert count_synchronisations(three) == 3
    assert torch.cuda.get_sync_debug_mode() == before
