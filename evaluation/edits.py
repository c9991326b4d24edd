"""The input of every metric: a batch of edited images with the sources and prompts they were made from."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Edits:
    """Hold a batch of edited images with what they were made from.

    Images are RGB in [0, 1]. Each distinct source stands once in `source_images`; `source_index` says which
    source each edit came from, so that a metric looks at every source once. All is on the CPU: a metric moves
    what it looks at to its own device, batch by batch.
    """

    images: Tensor  # (N, 3, H, W) float32
    source_images: Tensor  # (M, 3, H, W) float32, M <= N
    source_index: Tensor  # (N,) int64 in [0, M)
    source_prompts: tuple[str, ...]  # N
    target_prompts: tuple[str, ...]  # N
    # (N, 1, H, W) bool or float32 in {0, 1}, 1 = the area to edit; None = no masks
    masks: Tensor | None = None
    # N of (K, 3, H, W) float32: what the edit should give, any of K; None = not known
    ideals: tuple[Tensor | None, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("images", "source_images", "source_index", "masks"):
            tensor = getattr(self, name)
            if tensor is not None and tensor.device.type != "cpu":
                raise ValueError(f"{name} is on {tensor.device}; allowed: cpu, metrics move it themselves")
        _check_images("images", self.images)
        _check_images("source_images", self.source_images)
        n, m = len(self.images), len(self.source_images)
        if self.source_images.shape[1:] != self.images.shape[1:]:
            raise ValueError(
                f"source_images has shape {tuple(self.source_images.shape)}; "
                f"allowed: (M, {', '.join(map(str, self.images.shape[1:]))}), the size of images"
            )
        if m > n:
            raise ValueError(f"source_images holds {m} images; allowed: at most {n}, one per edit")
        _check_index(self.source_index, n, m)
        for name in ("source_prompts", "target_prompts"):
            _check_prompts(name, getattr(self, name), n)
        if self.ideals is not None:
            _check_ideals(self.ideals, n, self.images.shape[1:])
        if self.masks is not None:
            _check_masks(self.masks, (n, 1, *self.images.shape[-2:]))

    def __len__(self) -> int:
        return len(self.images)


def _check_images(name: str, images: Tensor) -> None:
    if images.dim() != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"{name} has shape {tuple(images.shape)}; allowed: (N, 3, H, W), none of them 0")
    if images.dtype != torch.float32:
        raise ValueError(f"{name} has dtype {images.dtype}; allowed: torch.float32")
    low, high = images.min().item(), images.max().item()
    # Written so that a NaN, for which every comparison is false, is refused too.
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{name} has values from {low:g} to {high:g}; allowed: finite, in [0, 1]")


def _check_index(source_index: Tensor, n: int, m: int) -> None:
    if source_index.dtype != torch.int64 or source_index.shape != (n,):
        raise ValueError(
            f"source_index is {source_index.dtype} of shape {tuple(source_index.shape)}; "
            f"allowed: torch.int64 of shape ({n},)"
        )
    low, high = int(source_index.min()), int(source_index.max())
    if low < 0 or high >= m:
        raise ValueError(f"source_index has values from {low} to {high}; allowed: 0 to {m - 1}")


def _check_prompts(name: str, prompts: tuple[str, ...], n: int) -> None:
    if not isinstance(prompts, tuple) or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError(f"{name} is {prompts!r}; allowed: a tuple of strings")
    if len(prompts) != n:
        raise ValueError(f"{name} has {len(prompts)} entries; allowed: {n}, one per edit")


def _check_ideals(ideals: tuple[Tensor | None, ...], n: int, shape: torch.Size) -> None:
    if len(ideals) != n:
        raise ValueError(f"ideals has {len(ideals)} entries; allowed: {n}, one per edit")
    for ideal in {id(ideal): ideal for ideal in ideals if ideal is not None}.values():
        _check_images("ideals", ideal)
        if ideal.shape[1:] != shape:
            raise ValueError(
                f"ideals has shape {tuple(ideal.shape)}; allowed: (K, {', '.join(map(str, shape))})"
            )


def _check_masks(masks: Tensor, shape: tuple[int, ...]) -> None:
    if masks.shape != shape:
        raise ValueError(f"masks has shape {tuple(masks.shape)}; allowed: {shape}, the size of images")
    if masks.dtype not in (torch.bool, torch.float32):
        raise ValueError(f"masks has dtype {masks.dtype}; allowed: torch.bool, torch.float32")
    if not ((masks == 0) | (masks == 1)).all():
        raise ValueError(
            f"masks has values from {masks.min().item():g} to {masks.max().item():g}; allowed: 0 and 1 only"
        )
