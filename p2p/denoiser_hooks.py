"""What may be added to a denoiser or a pipeline that edits would silently do without, or go wrong by."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

KEPT_HOOKS = (
    "group_offloading",
    "layer_execution_tracker",
    "layerwise_casting",
    "lazy_prefetch_group_offloading",
    "peft_autocast_disable",
)
"""Hooks of diffusers (0.42.1) that leave each call of the denoiser what it is."""
STEP_CACHES = ("DeepCache", "cache_dit")
"""Packages (0.1.1, 1.5.3) that put a forward of their own, with a cache, in the place of a network's."""
PARTS = re.compile(
    r"(text_encoder|tokenizer)(_\d)?|bert|unet|transformer|vae|vqvae|(\w+_)?scheduler"
    r"|feature_extractor|image_encoder|safety_checker|watermarker"
)
"""Parts of pipelines that families ask, and those without which a prompt's image is the same."""


def check_hooks(denoiser: Any) -> None:
    """Raise ValueError where a hook of diffusers, or another forward, lets a call depend on earlier ones.

    So it does where layers are left out, or tokens merged. Step caches (MagCache, Pyramid Attention
    Broadcast) would give a row what another one had, as the rows of a call change from one step to the next;
    layers that are skipped read no maps.
    """
    for part in denoiser.modules():
        package = str(getattr(vars(part).get("forward"), "__module__", "")).partition(".")[0]
        if package in STEP_CACHES:
            raise ValueError(
                f"denoiser: has a cache of steps, of {package}, by which a step is not computed whole; "
                "allowed is a denoiser without, as after it is disabled"
            )
        if hasattr(part, "_tome_info"):
            raise ValueError(
                "denoiser: merges tokens (tomesd), in each row others, so that no row's maps fit another; "
                "allowed is a denoiser without, as after tomesd.remove_patch()"
            )
        registry = getattr(part, "_diffusers_hook", None)
        for name in registry.hooks if registry is not None else ():
            if name not in KEPT_HOOKS:
                raise ValueError(
                    f"denoiser: has diffusers' hook {name!r} (a cache of steps, or skipped layers), by which "
                    "a step is not computed whole; allowed is a denoiser without, as after disable_cache()"
                )


def unasked_parts(names: Iterable[str], own: Collection[str]) -> list[str]:
    """Return parts of a pipeline that nothing here asks, and without which its images would be others.

    A ControlNet, say, or a T2I-Adapter. `own` are those that its family alone asks.
    """
    return sorted(name for name in names if not PARTS.fullmatch(name) and name not in own)
