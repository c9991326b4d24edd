"""Euler's steps of a rectified flow, taken backwards (Liu et al. 2023, "Flow Straight and Fast: Learning to
Generate and Transfer Data with Rectified Flow", arXiv:2209.03003): what DDIM inversion is to diffusion.

The velocity is that of the noisier level, at the less noisy latents, as `ddim` takes it. Public code
(RF-Inversion's, UniEdit-Flow's baseline) asks for the less noisy level, and so once for level 0, which no
sampler asks the network for; on a Gaussian's known flow its error is twice as large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from p2p.inversion.flow_inversion import FlowInversion


@dataclass(frozen=True)
class ReverseEuler(FlowInversion):
    """Go up by Euler's steps and down by the sampler's own: order 1, one evaluation a step both ways."""

    name: ClassVar[str] = "reverse_euler"
    up: ClassVar[str] = "euler"
