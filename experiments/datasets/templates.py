"""The seven prompt templates on which the Prompt-to-Prompt paper is measured (Hertz et al. 2022, appendix).

The paper draws 20 pairs from each and does not publish the draw. Its grammar is kept as it is.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product

from experiments.datasets.dataset import Dataset
from experiments.datasets.pair import Pair

THINGS = ("apples", "oranges", "chocolates", "kittens", "puppies", "candies")
CONTAINERS = ("box", "bowl", "bucket", "nest", "pot")
ANIMALS = (
    "cat", "dog", "lion", "camel", "horse", "bear", "squirrel", "elephant", "zebra", "giraffe", "cow",
)  # fmt: skip
ACTIONS = (
    "seating in the field", "walking in the field", "walking in the city", "wandering around the city",
    "wandering in the streets", "walking in the desert", "seating in the desert", "walking in the forest",
    "seating in the forest", "plays at the playground", "enjoys at the playground",
)  # fmt: skip
PLANTS = ("tree", "shrub", "flower", "chair", "fruit")
MATERIALS = tuple(f"made of {stuff}" for stuff in ("candies", "bricks", "paper", "clay", "wax", "feathers"))
INSECTS = ("bug", "butterfly", "bee", "grasshopper", "bird")
LOOKS = ("wooden", "old", "crashed", "golden", "silver", "sport", "toy")
VEHICLES = ("car", "bus", "bicycle", "motorcycle", "scooter", "van")
LANDSCAPES = (
    "a river", "a lake", "a valley", "mountains", "a forest", "a river in the valley",
    "a village on a mountain", "a waterfall between the mountains", "the cliffs in the desert",
)  # fmt: skip
TIMES = (
    "in the winter", "in the autumn", "at night", "at sunset", "at sunrise", "at fall", "in rainy day",
    "in a cloudy day", "at evening",
)  # fmt: skip
TRAFFIC = (
    "Heavy traffic", "The houses", "The buildings", "Cycling", "The tram is passing",
    "The bus arrived at the station",
)  # fmt: skip
STREETS = ("snowy", "flooded", "blossom", "modern", "historic", "commercial", "colorful")


def p2p_templates(per_template: int | None = 20, seed: int = 0) -> tuple[Pair, ...]:
    """Draw `per_template` pairs from each template; None gives all 1,795.

    An id such as `t3-0042` (template, position in its enumeration) names the same pair in every draw. A draw
    takes the smallest hashes of (seed, id): it is the same everywhere, and a larger one contains the smaller.
    """
    templates = _templates()
    smallest = min(len(pairs) for pairs in templates)
    if per_template is None:
        return tuple(pair for pairs in templates for pair in pairs)
    if not 1 <= per_template <= smallest:
        total = sum(len(pairs) for pairs in templates)
        raise ValueError(f"per_template = {per_template}: must be 1 to {smallest}, or null for all {total:,}")
    return tuple(pair for pairs in templates for pair in _draw(pairs, per_template, seed))


def _draw(pairs: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    ranked = sorted(pairs, key=lambda pair: hashlib.sha256(f"{seed} {pair.id}".encode()).digest())
    return sorted(ranked[:count], key=lambda pair: pair.id)


def _templates() -> tuple[list[Pair], ...]:
    return (
        list(_swap(1, "Image of {swap} inside a {const}.", THINGS, CONTAINERS)),
        list(_swap(2, "A {swap} full of {const} is lying on the table.", CONTAINERS, THINGS)),
        list(_swap(3, "Photo of a {swap} {const}.", ANIMALS, ACTIONS)),
        list(_add(4, "Photo of a {const} {add} with a {last} on it.", PLANTS, MATERIALS, INSECTS)),
        list(_add(5, "Image of {add} {const} on the side of the road.", VEHICLES, LOOKS)),
        list(_add(6, "A landscape image of {const} {add}.", LANDSCAPES, TIMES)),
        list(_add(7, "{const} in the {add} street.", TRAFFIC, STREETS)),
    )


def _swap(number: int, template: str, swapped: Sequence[str], kept: Sequence[str]) -> Iterator[Pair]:
    """Enumerate the ordered pairs of different `swapped` in front of every `kept`."""
    for position, ((old, new), const) in enumerate(product(permutations(swapped, 2), kept)):
        source, target = (template.format(swap=word, const=const) for word in (old, new))
        yield Pair(f"t{number}-{position:04d}", source, target, edit_type="swap")


def _add(
    number: int, template: str, kept: Sequence[str], added: Sequence[str], last: Sequence[str] = ("",)
) -> Iterator[Pair]:
    """Enumerate every `added` to every `kept`; the gap it leaves in the source is closed."""
    for position, (const, add, end) in enumerate(product(kept, added, last)):
        without = template.format(const=const, add="", last=end).replace("  ", " ").replace(" .", ".")
        target = template.format(const=const, add=add, last=end)
        yield Pair(f"t{number}-{position:04d}", without, target, edit_type="add")


@dataclass(frozen=True, kw_only=True)
class Templates(Dataset):
    """The paper's templates; see `p2p_templates`."""

    name: str = "p2p_templates"
    per_template: int | None = 20
    seed: int = 0

    def read(self) -> tuple[Pair, ...]:
        return p2p_templates(self.per_template, self.seed)
