"""What it saves that the metrics of a group share the features of its source, its prompts and its edits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, mse_loss
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)
from torchvision.transforms.functional import to_pil_image

from evaluation.clip import Clip
from evaluation.edits import Edits
from evaluation.metric import Metric, Scores
from evaluation.perceptual import Lpips
from evaluation.pixel import Pixel, ms_ssim_weights
from experiments.embedded.training import WEIGHTS

GROUPS, EDITS, SIDE = 8, 11, 64


def evaluation_speedup(repeats: int = 3) -> dict[str, float]:
    """Score 8 groups of one source and 11 edits: our metrics against the same libraries, column by column.

    The libraries get what a script would give them, every edit beside its own source and prompts, in batches
    of the same size, for each column on its own: open_clip's features, the lpips package, torchmetrics. Both
    sides run the embedded weights on the CPU, loaded before. Best of some turns; `evaluation_speedup` is of
    all columns together, the others of one family.
    """
    clip = Clip("embedded", folder=WEIGHTS / "clip", batch_size=EDITS)
    lpips = Lpips("embedded", folder=WEIGHTS / "lpips", batch_size=EDITS)
    pixel = Pixel(batch_size=EDITS)
    clip.load()
    lpips.load()
    groups = [_group(seed) for seed in range(GROUPS)]
    families: dict[str, tuple[Metric, Callable[[Edits], list[Tensor]]]] = {
        "clip": (clip, lambda edits: list(_clip_columns(clip, edits))),
        "lpips": (lpips, lambda edits: [_lpips_column(lpips, edits)]),
        "pixel": (pixel, lambda edits: list(_pixel_columns(edits))),
    }
    ours, theirs = dict.fromkeys(families, float("inf")), dict.fromkeys(families, float("inf"))
    with torch.inference_mode():
        for _ in range(repeats):
            for name, (metric, columns) in families.items():
                began = time.perf_counter()
                shared = [metric(edits) for edits in groups]
                middle = time.perf_counter()
                alone = [columns(edits) for edits in groups]
                ended = time.perf_counter()
                ours[name] = min(ours[name], middle - began)
                theirs[name] = min(theirs[name], ended - middle)
                for scores, values in zip(shared, alone, strict=True):
                    _same(list(scores.values()), values)
    ratios = {f"evaluation_speedup_{name}": theirs[name] / ours[name] for name in families}
    return {"evaluation_speedup": sum(theirs.values()) / sum(ours.values()), **ratios}


def _group(seed: int) -> Edits:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1 + EDITS, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1)
    images = (smooth * 255).round() / 255
    return Edits(
        images=images[1:],
        source_images=images[:1],
        source_index=torch.zeros(EDITS, dtype=torch.int64),
        source_prompts=("a red apple on the grass",) * EDITS,
        target_prompts=("a green apple on the grass",) * EDITS,
    )


def _clip_columns(clip: Clip, edits: Edits) -> Iterator[Tensor]:
    """Yield the four columns of `Clip`, each from features of its own."""
    model, encoder = clip.encoder.model, clip.encoder
    sources = edits.source_images[edits.source_index]

    def images(batch: Tensor) -> Tensor:
        pixels = [encoder.transform(to_pil_image((image * 255).round().to(torch.uint8))) for image in batch]
        features: Tensor = model.encode_image(torch.stack(pixels), normalize=True)
        return features

    def prompts(texts: tuple[str, ...]) -> Tensor:
        tokens = encoder.tokenizer(list(texts), context_length=encoder.context_length)
        features: Tensor = model.encode_text(tokens, normalize=True)
        return features

    yield cosine_similarity(images(edits.images), prompts(edits.source_prompts))
    yield cosine_similarity(images(edits.images), prompts(edits.target_prompts))
    yield cosine_similarity(
        images(edits.images) - images(sources),
        prompts(edits.target_prompts) - prompts(edits.source_prompts),
    )
    yield cosine_similarity(images(edits.images), images(sources))


def _lpips_column(lpips: Lpips, edits: Edits) -> Tensor:
    distances: Tensor = lpips.model(edits.source_images[edits.source_index], edits.images, normalize=True)
    return distances.flatten()


def _pixel_columns(edits: Edits) -> Iterator[Tensor]:
    """Yield the four columns of `Pixel`."""
    sources, images = edits.source_images[edits.source_index], edits.images
    yield structural_similarity_index_measure(images, sources, data_range=1.0, reduction="none")
    yield multiscale_structural_similarity_index_measure(
        images, sources, data_range=1.0, reduction="none", betas=ms_ssim_weights(SIDE)
    )
    yield peak_signal_noise_ratio(images, sources, data_range=1.0, reduction="none", dim=(1, 2, 3))
    yield mse_loss(images, sources, reduction="none").mean(dim=(1, 2, 3))


def _same(scores: list[Scores], values: list[Tensor]) -> None:
    """Raise AssertionError where the two sides did not compute the same: a ratio would mean nothing."""
    for ours, theirs in zip(scores, values, strict=True):
        torch.testing.assert_close(ours.values, theirs.double(), atol=1e-4, rtol=1e-4)
