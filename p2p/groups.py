"""A group of edits of one source, what it becomes, where its tree starts, and which groups share calls.

An edit's number is its place in `Group.edits`. A branch of a tree is a number higher, as the source is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from p2p.pictures import to_pil
from p2p.sampling import Sampling
from p2p.trajectory import Trajectory

if TYPE_CHECKING:
    from p2p.inversion import Inversion

SOURCE = -1  # the source's number, among those of its edits


@dataclass(frozen=True)
class Group:
    """One source (a prompt and a seed, or a real image) and all edits of it.

    Raises ValueError for a seed that is no whole number in [0, 2^63); -1, say, is not a random one.
    """

    source_prompt: str
    seed: int
    edits: tuple[Trajectory, ...]
    image: Callable[[], Tensor] | None = None  # gives the real source image; None: the source is generated
    inversion: Inversion | None = None  # of that image; without one SDEdit and other pipelines can edit it

    def __post_init__(self) -> None:
        seed = self.seed
        if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**63:
            raise ValueError(f"seed: {seed!r} is not a whole number in [0, 2^63)")
        object.__setattr__(self, "seed", int(seed))  # torch does not take NumPy's

    def trajectories(self) -> dict[int, Trajectory]:
        """Return by branch the source and the edits that the model itself makes, without other pipelines'."""
        made = {i + 1: edit for i, edit in enumerate(self.edits) if edit.external is None}
        return {0: Trajectory(self.source_prompt, ()), **made}

    def tree(self) -> dict[int, Trajectory]:
        """Return by branch what starts from the source's noise; nothing where no one needs the noise."""
        tree = {branch: one for branch, one in self.trajectories().items() if one.from_noise}
        return tree if self.image is None or len(tree) > 1 else {}


@dataclass(frozen=True, repr=False)
class Edited:
    """A group's images, (3, height, width) float32 in [0, 1] with 8-bit values, in the order of its edits.

    A real source is as it was given, not rounded. `reconstruction` is what its inversion leads back to; None
    where the source is generated or no edit asked for the inversion.
    """

    source: Tensor
    images: tuple[Tensor, ...]
    reconstruction: Tensor | None = None

    def to_pil(self) -> list[Image.Image]:
        """Return the source and its edits, in their order, as pictures of 8 bits."""
        return [to_pil(image) for image in (self.source, *self.images)]

    def __repr__(self) -> str:
        height, width = self.source.shape[-2:]
        made = f"{len(self.images)} image" + "s" * (len(self.images) != 1)
        inverted = "" if self.reconstruction is None else ", reconstruction"
        return f"Edited(source, {made}{inverted} of {width}x{height})"


def tree_start(inversion: Inversion | None, sampling: Sampling) -> tuple[int, bool]:
    """Return the first step of a group's tree, and whether no edit shares a state with the source."""
    if inversion is None:
        return 0, False
    return inversion.start(sampling.num_inference_steps), inversion.apart(sampling)


def batches(
    groups: Sequence[Group], sampling: Sampling, guidance_embedded: bool = False
) -> Iterator[list[int]]:
    """Yield the numbers of the groups that fill one call's rows together (at least one group), in order."""
    batch: list[int] = []
    rows = 0
    for number, group in enumerate(groups):
        wanted = max(1, len(group.tree())) * sampling.rows_per_state(guidance_embedded)
        if batch and rows + wanted > sampling.max_batch:
            yield batch
            batch, rows = [], 0
        batch.append(number)
        rows += wanted
    if batch:
        yield batch
