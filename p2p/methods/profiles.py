"""The published variants of Prompt-to-Prompt by name: what differs between implementations in circulation.

`google-stable` is the first notebook of google/prompt-to-prompt, `null-text` its null-text notebook, which
PIE-Bench's numbers come from; `fixed` is our default, in which the reference's flaws are mended.
"""

from __future__ import annotations

from dataclasses import dataclass

from p2p.alignment import Tail


@dataclass(frozen=True)
class Profile:
    """What a profile decides; everything else is the same in all of them."""

    tail: Tail  # alignment of what follows the last word, see alignment.py
    self_max_pixels: int | None  # largest injected self-attention layer; None: the model's own setting
    blend_start: float  # share of the steps after which LocalBlend starts
    one_weight: bool  # all re-weighted words share one factor (the first equalizer)


PROFILES = {
    "google-stable": Profile("google", 16**2, 0.0, True),
    "null-text": Profile("google", 32**2, 0.2, False),
    "fixed": Profile("by_position", None, 0.2, False),
}


def profile(name: str) -> Profile:
    """Return a profile by name. Raises ValueError for an unknown one."""
    if name not in PROFILES:
        raise ValueError(f"profile: {name!r} is not one of {', '.join(map(repr, PROFILES))}")
    return PROFILES[name]
