"""Prompt-to-Prompt by projections: the source's image queries and keys in joint attention.

Shin et al. 2025, "Exploring Multimodal Diffusion Transformers for Enhanced Prompt-based Image Editing", ICCV
2025, Alg. 1; defaults are as in the authors' code, SNU-VGILab/exploring-mmdit, without its local blend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from p2p.alignment import Tokenizers, check_equal_padding, check_prompt
from p2p.attention.joint_blocks import Blocks
from p2p.attention.single_layers import LayerInjection
from p2p.methods.windows import Steps, window
from p2p.numbers import whole_steps
from p2p.trajectory import EditRequest, Injection, Trajectory


@dataclass(frozen=True)
class Projections:
    """Give the target the source's projections of the image, queries and keys, in chosen blocks.

    With q and k of [image, text] and the target's values v,

        softmax([q_image_source, q_text] [k_image_source, k_text]^T) [v_image, v_text]

    so that no words are aligned, and text queries read the source's image keys too. `replace_steps` is the
    share of the steps, from the first, or a window (start, end) of shares, rounded as `int(T * share)`; 0 is
    the fixed seed. `blocks` are such as ["double-0..7", "single-32..37"], counted from 0 in each stream;
    None: all. Unconditional rows keep their own, as does a second attention that a block has of the image
    alone (Stable Diffusion 3.5 medium). Weights and blend words have nothing to act on.

    The authors' code numbers the blocks of Stable Diffusion 3.5 medium by attention layers, the second ones
    among them, and those of Flux through both streams: its 19 is single-0 here. A share that comes to no step
    is an error here, there the fixed seed.
    """

    replace_steps: Steps = 0.2
    blocks: str | Sequence[str] | None = None
    name: ClassVar[str] = "projections"
    uses_mask: ClassVar[bool] = False

    def __post_init__(self) -> None:
        window("replace_steps", self.replace_steps)
        Blocks.named(self.blocks)

    def trajectory(
        self, request: EditRequest, tokenizers: Tokenizers, num_inference_steps: int
    ) -> Trajectory:
        """Return denoising of the target prompt that takes from the source.

        Raises ValueError for a share above 0 that comes to no step.
        """
        check_prompt(request.target_prompt, tokenizers)
        steps = num_inference_steps
        shares = window("replace_steps", self.replace_steps)
        start, end = (whole_steps(share, steps) for share in shares)
        if start == end and shares[0] < shares[1]:
            raise ValueError(
                f"replace_steps: {self.replace_steps!r} of {steps} steps is no step, allowed are 0 and "
                f"windows of 1/{steps} or more"
            )
        if start < end:
            check_equal_padding(request.source_prompt, request.target_prompt, tokenizers)
        injection = Injection(None, False, layers=LayerInjection(projections=Blocks.named(self.blocks)))
        rows = range(steps + 1)
        return Trajectory(
            request.target_prompt, tuple(injection if start <= row < end else None for row in rows)
        )
