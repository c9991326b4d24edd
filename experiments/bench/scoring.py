"""`evaluation_speedup`: that a group's metrics share what they see in its source, its prompts and its edits.

Against the same libraries as a script calls them: every edit beside its own source and prompts, each column
on its own. `evaluation_speedup_FAMILY` is of one family of columns, `pie_...` those of PIE-Bench that the
embedded weights can give (no structure distance). Loading the weights is in no time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

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
from evaluation.encoder import Encoder
from evaluation.metric import Metric
from evaluation.perceptual import Lpips
from evaluation.pie import PieClip, UneditedLpips, UneditedPixel
from evaluation.pixel import Pixel, ms_ssim_weights
from experiments.bench.measuring import Clock, Measured, Ratio, in_turn
from experiments.embedded.training import WEIGHTS

FAMILIES = ("clip", "lpips", "pixel", "pie_clip", "pie_lpips", "pie_pixel")
SIDE = 64
# Float32 features of one image differ by about 1e-6 between batches, and CLIPScore is a hundred of them.
TOLERANCE = 1e-4

Columns = Callable[[Edits], Iterator[Tensor]]
Families = Mapping[str, tuple[Metric, Columns]]


def measure(
    groups: int,
    edits: int,
    rounds: int,
    clock: Clock,
    say: Callable[[str], None],
    families: Families | None = None,
    side: int = SIDE,
) -> Measured:
    """Measure on groups of one source and so many edits, batches of that size on both sides.

    Images are side x side pixels; `families` are the embedded weights' unless given. Raises RuntimeError
    where the two sides give different values.
    """
    some = [_group(seed, edits, side) for seed in range(groups)]
    times: dict[str, dict[str, list[float]]] = {}
    families = families or _families(str(clock.device), edits)
    for name, (metric, columns) in families.items():
        times[name] = _times(name, metric, columns, some, rounds, clock, say)
    sums = {
        who: [sum(turn) for turn in zip(*(times[name][who] for name in families), strict=True)]
        for who in ("libraries", "shared")
    }
    ratios = {"evaluation_speedup": sums} | {f"evaluation_speedup_{name}": times[name] for name in families}
    return Measured(
        {key: Ratio.of_sums(both["libraries"], both["shared"]) for key, both in ratios.items()},
        {"evaluation_groups": groups, "evaluation_edits": edits},
    )


def _times(
    name: str,
    metric: Metric,
    columns: Columns,
    some: Sequence[Edits],
    rounds: int,
    clock: Clock,
    say: Callable[[str], None],
) -> dict[str, list[float]]:
    """Return both sides' seconds of each round for one family, after a first one that compares them."""
    with torch.inference_mode():
        for edits in some:
            for scores, values in zip(metric(edits).values(), columns(edits), strict=True):
                if not torch.allclose(scores.values, values.cpu().double(), TOLERANCE, TOLERANCE):
                    raise RuntimeError(f"evaluation: {name} differs from the library's by more than rounding")
        runs = {
            "libraries": lambda: clock.seconds(lambda: [list(columns(edits)) for edits in some]),
            "shared": lambda: clock.seconds(lambda: [metric(edits) for edits in some]),
        }
        return in_turn(runs, rounds, lambda text: say(f"{name}, {text} s"))


def _group(seed: int, edits: int, side: int) -> Edits:
    """Return edits of one source, all with one mask; blotches of colour, far from every metric's limits."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1 + edits, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    images = (smooth * 255).round() / 255
    masks = torch.zeros(edits, 1, side, side)
    masks[..., 10:40, 20:50] = 1
    return Edits(
        images=images[1:],
        source_images=images[:1],
        source_index=torch.zeros(edits, dtype=torch.int64),
        source_prompts=("a red apple on the grass",) * edits,
        target_prompts=("a green apple on the grass",) * edits,
        masks=masks,
    )


def _families(device: str, batch_size: int) -> Families:
    """Return each family's metric, weights loaded, and the columns that it has, from the libraries."""
    clip_folder, lpips_folder = WEIGHTS / "clip", WEIGHTS / "lpips"
    clip = Clip("embedded", None, clip_folder, device, batch_size)
    pie_clip = PieClip("embedded", None, clip_folder, device, batch_size)
    lpips = Lpips("embedded", None, lpips_folder, device, batch_size)
    pie_lpips = UneditedLpips("embedded", None, lpips_folder, device, batch_size)
    clip.load()
    pie_clip.load()
    lpips.load()
    pie_lpips.load()
    return {
        "clip": (clip, lambda edits: _clip(clip.encoder, edits)),
        "lpips": (lpips, lambda edits: _lpips(lpips, edits)),
        "pixel": (Pixel(device, batch_size), lambda edits: _pixel(edits, device)),
        "pie_clip": (pie_clip, lambda edits: _pie_clip(pie_clip.encoder, edits)),
        "pie_lpips": (pie_lpips, lambda edits: _lpips(pie_lpips.lpips, _unedited(edits))),
        "pie_pixel": (UneditedPixel(device, batch_size), lambda edits: _pie_pixel(_unedited(edits), device)),
    }


def _clip(encoder: Encoder, edits: Edits) -> Iterator[Tensor]:
    """Yield the four columns of `Clip`, each from features of its own."""
    images, sources = edits.images, edits.source_images[edits.source_index]
    yield cosine_similarity(_images(encoder, images), _prompts(encoder, edits.source_prompts))
    yield cosine_similarity(_images(encoder, images), _prompts(encoder, edits.target_prompts))
    yield cosine_similarity(
        _images(encoder, images) - _images(encoder, sources),
        _prompts(encoder, edits.target_prompts) - _prompts(encoder, edits.source_prompts),
    )
    yield cosine_similarity(_images(encoder, images), _images(encoder, sources))


def _pie_clip(encoder: Encoder, edits: Edits) -> Iterator[Tensor]:
    """Yield the three columns of `PieClip`, each from features of its own."""
    sources = edits.source_images[edits.source_index]
    assert edits.masks is not None
    part = edits.images * edits.masks
    for images, prompts in (
        (sources, edits.source_prompts),
        (edits.images, edits.target_prompts),
        (part, edits.target_prompts),
    ):
        yield 100 * cosine_similarity(_images(encoder, images), _prompts(encoder, prompts)).clamp(min=0)


def _images(encoder: Encoder, images: Tensor) -> Tensor:
    pixels = [encoder.transform(to_pil_image((image * 255).round().to(torch.uint8))) for image in images]
    features: Tensor = encoder.model.encode_image(torch.stack(pixels).to(encoder.device), normalize=True)
    return features


def _prompts(encoder: Encoder, prompts: tuple[str, ...]) -> Tensor:
    tokens = encoder.tokenizer(list(prompts), context_length=encoder.context_length)
    features: Tensor = encoder.model.encode_text(tokens.to(encoder.device), normalize=True)
    return features


def _lpips(lpips: Lpips, edits: Edits) -> Iterator[Tensor]:
    sources, images = _moved(edits, lpips.device)
    yield lpips.model(sources, images, normalize=True).flatten()


def _pixel(edits: Edits, device: str) -> Iterator[Tensor]:
    """Yield the four columns of `Pixel`."""
    yield from _ssim(edits, device)
    sources, images = _moved(edits, device)
    yield multiscale_structural_similarity_index_measure(
        images, sources, data_range=1.0, reduction="none", betas=ms_ssim_weights(SIDE)
    )
    yield from _errors(edits, device)


def _pie_pixel(edits: Edits, device: str) -> Iterator[Tensor]:
    """Yield the three columns of `UneditedPixel`, of images that are black inside the masks."""
    yield from _errors(edits, device)
    yield from _ssim(edits, device)


def _ssim(edits: Edits, device: str) -> Iterator[Tensor]:
    sources, images = _moved(edits, device)
    _, of_pixels = structural_similarity_index_measure(
        images, sources, data_range=1.0, reduction="none", return_full_image=True
    )
    assert isinstance(of_pixels, Tensor)
    yield of_pixels[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))  # without the border, as `ssim@3` is


def _errors(edits: Edits, device: str) -> Iterator[Tensor]:
    """Yield PSNR and mean squared error."""
    sources, images = _moved(edits, device)
    yield peak_signal_noise_ratio(images, sources, data_range=1.0, reduction="none", dim=(1, 2, 3))
    yield mse_loss(images, sources, reduction="none").mean(dim=(1, 2, 3))


def _moved(edits: Edits, device: str) -> tuple[Tensor, Tensor]:
    return edits.source_images[edits.source_index].to(device), edits.images.to(device)


def _unedited(edits: Edits) -> Edits:
    """Return the images, black inside the mask, which is one for all."""
    assert edits.masks is not None
    kept = 1 - edits.masks[:1]
    return replace(edits, images=edits.images * kept, source_images=edits.source_images * kept)
