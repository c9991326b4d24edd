"""The model and the picture that the tests of inversions share."""

from collections.abc import Iterator
from typing import Any

import pytest
from torch import Tensor

from p2p import (
    StableDiffusion,
)


@pytest.fixture
def model(calm_model: StableDiffusion) -> StableDiffusion:
    """The tiny pipeline with calm attention, in double precision."""
    return calm_model


@pytest.fixture
def image(picture: Tensor) -> Tensor:
    """A smooth image (3, 32, 32) with 8-bit values."""
    return picture


@pytest.fixture
def scheduler(model: StableDiffusion) -> Iterator[Any]:
    """Put another scheduler into the pipeline for one test."""
    original = model.pipeline.scheduler

    def install(kind: Any, **config: Any) -> None:
        model.pipeline.scheduler = kind.from_config(original.config, **config)

    yield install
    model.pipeline.scheduler = original
