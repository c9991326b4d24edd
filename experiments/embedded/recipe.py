"""What a training of a diffusion model is told, on the command line and by tests, and where it is kept."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, Self, TypeVar

from experiments.embedded.input_errors import InputError, told_in_one_line
from experiments.embedded.training import check_device, check_out
from experiments.embedded.worlds import HELP, NAMES, load_world
from experiments.embedded.worlds.contract import World


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What every training is told; raises InputError for what cannot be.

    A subclass adds fields of its own and says which of all are counts (1 or more), amounts (above 0) and
    weights of losses (0 or more), where None is not checked, and which a resumed training must keep.
    """

    world: str = NAMES[0]
    minutes: float | None = None
    batch_size: int | None = None
    lr: float
    seed: int = 0
    device: str = "cpu"
    out: Path | None = None

    name: ClassVar[str]  # of the folder of the weights
    counts: ClassVar[Sequence[str]] = ("batch_size",)
    amounts: ClassVar[Sequence[str]] = ("minutes", "lr")
    loss_weights: ClassVar[Sequence[str]] = ()
    kept: ClassVar[Sequence[str]] = ()
    batch_size_help: ClassVar[str] = "small: steps are what counts"
    seed_help: ClassVar[str] = "of the order of pictures and the noise"

    def __post_init__(self) -> None:
        check_device(self.device)
        for names, fits, allowed in (
            (self.counts, lambda value: value >= 1, "1 or more"),
            (self.amounts, lambda value: 0 < value < float("inf"), "a number above 0"),
            (self.loss_weights, lambda value: 0 <= value < float("inf"), "0 or more"),
        ):
            for name in names:
                if (value := getattr(self, name)) is not None and not fits(value):
                    raise InputError(f"{name}: {value}, allowed is {allowed}")
        check_out(self.folder, self.definition.weights)

    @property
    def definition(self) -> World:
        """The world whose name is `world`."""
        return load_world(self.world)

    @property
    def shipped(self) -> Path:
        """The folder of the world's shipped pipeline."""
        return self.definition.weights / "pipeline"

    @property
    def folder(self) -> Path:
        """Where the weights go: `out`, else the world's checkpoints."""
        return self.out or self.definition.checkpoints / self.name

    @property
    def checkpoint(self) -> Path:
        """Where a training of `minutes` keeps its state, beside the weights."""
        return self.folder.with_name(f"{self.folder.name}.pt")

    def identity(self) -> dict[str, object]:
        """Return what a training that is resumed must have in common with the one that was broken off."""
        return {name: getattr(self, name) for name in ("world", "lr", "seed", *self.kept)}

    @classmethod
    def read(
        cls, parser: argparse.ArgumentParser, arguments: Sequence[str] | None, **defaults: object
    ) -> Self:
        """Read the command line; what is wrong in it ends the program with one line.

        `parser` has the options of the subclass's own fields and of minutes; `defaults` are values of fields
        that the command line may leave out, and a recipe may not.
        """
        add = parser.add_argument
        add("--world", help=f"whose pictures: {HELP}")
        add("--batch-size", type=int, help=cls.batch_size_help)
        add("--lr", type=float, help="peak learning rate")
        add("--seed", type=int, help=cls.seed_help)
        add("--device", help="cpu, cuda or cuda:N")
        add(
            "--out",
            type=Path,
            help="folder for the weights, the state beside it; in the world's checkpoints if not given",
        )
        parser.set_defaults(**{field.name: field.default for field in fields(cls)} | defaults)
        try:
            return cls(**vars(parser.parse_args(arguments)))
        except InputError as error:
            parser.error(str(error))


R = TypeVar("R", bound=Recipe)


def run(train: Callable[[R], None], parse: Callable[[], R]) -> None:
    """Train as the command line says; input that cannot be used ends the program with one line."""
    with told_in_one_line():
        train(parse())
