"""MasaCtrl: keep the source's contents while the target prompt lays them out anew.

Cao et al., "MasaCtrl: Tuning-Free Mutual Self-Attention Control for Consistent Image Synthesis and Editing",
ICCV 2023; defaults are as in the authors' code, TencentARC/MasaCtrl, without its masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from p2p.alignment import Tokenizers, check_prompt
from p2p.attention.single_layers import LayerInjection, Number, check_number
from p2p.trajectory import EditRequest, Injection, Trajectory


@dataclass(frozen=True)
class MasaCtrl:
    """Let the target's self-attention read the source: `softmax(Q_t K_s^T) V_s`, unconditional rows too.

    From step `start_step` on (counted from 0; the number of steps is never), in the self-attention layers
    from `start_layer` on, in the order in which they are called. "auto" is the second decoder level's first,
    which is the published 10 of 16 in Stable Diffusion 1.x. Weights and blend words have nothing to act on.
    """

    start_step: int = 4  # of 50, as published
    start_layer: Number = "auto"
    name: ClassVar[str] = "masactrl"
    uses_mask: ClassVar[bool] = False

    def __post_init__(self) -> None:
        step = self.start_step
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise ValueError(f"start_step: {step!r} is not a whole number of at least 0")
        check_number("start_layer", self.start_layer)

    def trajectory(
        self, request: EditRequest, tokenizers: Tokenizers, num_inference_steps: int
    ) -> Trajectory:
        """Return denoising of the target prompt that reads the source. Raises ValueError for a late start."""
        check_prompt(request.target_prompt, tokenizers)
        if self.start_step > num_inference_steps:
            raise ValueError(
                f"start_step: {self.start_step} of {num_inference_steps} steps, allowed are 0 to "
                f"{num_inference_steps} (never)"
            )
        injection = Injection(None, False, layers=LayerInjection(keys_values=self.start_layer))
        before = self.start_step if self.start_step < num_inference_steps else num_inference_steps + 1
        rest = num_inference_steps + 1 - before
        return Trajectory(request.target_prompt, (None,) * before + (injection,) * rest)
