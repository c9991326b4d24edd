"""Pictures and edits that the tests of metrics share."""

from dataclasses import replace

import torch
from torch import Tensor

from evaluation import Edits


def pictures(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Blotches of random colour, 8-bit values: smooth enough for every metric to be far from its limits."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round() / 255


def changed(images: Tensor, amount: float = 0.2, seed: int = 1) -> Tensor:
    """The images mixed with others."""
    others = pictures(len(images), *images.shape[-2:], seed=seed)
    return (((1 - amount) * images + amount * others) * 255).round() / 255


def edits_of(size: tuple[int, int] = (64, 64)) -> Edits:
    """Five edits of two sources; edit 2 changes no word, edit 4 no pixel."""
    sources = pictures(2, *size)
    index = torch.tensor([0, 1, 0, 1, 0])
    images = changed(sources[index])
    images[4] = sources[0]
    return Edits(
        images=images,
        source_images=sources,
        source_index=index,
        source_prompts=("a cat", "a dog on the beach", "a cat", "a dog on the beach", "a cat"),
        target_prompts=("a dog", "a fox on the beach", "a cat", "a red dog in the snow", "a fox"),
    )


def masked_edits(size: tuple[int, int] = (64, 64)) -> Edits:
    """The same edits inside masks: boxes in 0, 1, and 2, all in 3, nothing in 4."""
    masks = torch.zeros(5, 1, *size)
    masks[0, :, 10:40, 5:50] = masks[1, :, :20] = masks[2, :, 30:, 30:] = masks[3] = 1
    return replace(edits_of(size), masks=masks)


def rows_of(edits: Edits, rows: list[int]) -> Edits:
    """The edits in these rows, each with a source of its own."""
    return Edits(
        images=edits.images[rows],
        source_images=edits.source_images[edits.source_index[rows]],
        source_index=torch.arange(len(rows)),
        source_prompts=tuple(edits.source_prompts[row] for row in rows),
        target_prompts=tuple(edits.target_prompts[row] for row in rows),
        masks=None if edits.masks is None else edits.masks[rows],
    )
