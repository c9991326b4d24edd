"""What is wrong with a training's input ends it with one line; all else shows where it was raised."""

import errno
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from experiments.embedded import recipe, train_diffusion, train_flow
from experiments.embedded.input_errors import InputError
from experiments.embedded.training import run_steps
from experiments.embedded.worlds import load_world, start

Train = Callable[[], object]


def by_recipe(train: Train) -> None:
    recipe.run(lambda _: train(), partial(train_diffusion.parse, []))


def by_world(train: Train) -> None:
    start(lambda world: train(), ArgumentParser(), [])


def failing(file: Path, error: Exception) -> Train:
    """Return a training whose second step raises the error."""
    model = nn.Linear(1, 1)

    def loss_of_step(step: int) -> dict[str, Tensor]:
        if step == 1:
            raise error
        return {"size": model.weight.square().sum()}

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return partial(run_steps, file, 3, model, optimizer, lambda progress: 1.0, loss_of_step)


@pytest.fixture(autouse=True)
def script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["embedded/train_it.py"])


@pytest.mark.parametrize("command", [by_recipe, by_world])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("expected a non-empty list of tensors"),
        OSError(errno.ENOSPC, "No space left on device"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_a_step_shows_where_it_was_raised(
    command: Callable[[Train], None], error: Exception, tmp_path: Path
) -> None:
    with pytest.raises(type(error)) as raised:
        command(failing(tmp_path / "state.pt", error))
    assert raised.value is error
    assert raised.traceback[-1].name == "loss_of_step"


@pytest.mark.parametrize("command", [by_recipe, by_world])
def test_what_is_wrong_with_the_input_is_one_line(command: Callable[[Train], None], tmp_path: Path) -> None:
    error = InputError("data: 3.jpg is 32x48, allowed is 64x64")
    with pytest.raises(SystemExit, match=f"^train_it: {error}$"):
        command(failing(tmp_path / "state.pt", error))


@pytest.mark.parametrize("module", [train_flow, train_diffusion], ids=["flow", "diffusion"])
def test_weights_that_are_not_there_yet_are_one_line(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = replace(load_world("scenes"), weights=tmp_path / "weights", checkpoints=tmp_path / "checkpoints")
    monkeypatch.setattr(recipe, "load_world", lambda name: world)
    with pytest.raises(SystemExit) as stopped:
        recipe.run(module.main, partial(module.parse, []))
    told = str(stopped.value)
    assert told.startswith(f"train_it: world: {tmp_path / 'weights' / 'pipeline'} cannot be read (")
    assert "\n" not in told
