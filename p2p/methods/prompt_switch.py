"""The prompt switched on the way: the source prompt for the first steps, the target prompt for the others.

What studies of attention in transformers compare with (Shin et al. 2025, "Exploring Multimodal Diffusion
Transformers for Enhanced Prompt-based Image Editing", ICCV 2025), there after 20 % of the steps. It asks
nothing of the network, so every family can.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from p2p.alignment import Tokenizers, check_prompt
from p2p.numbers import check_finite, whole_steps
from p2p.trajectory import EditRequest, Trajectory


@dataclass(frozen=True)
class PromptSwitch:
    """Denoise the source prompt for the share `switch_after` of the steps, as `int(T * share)`, then the
    target's.

    0 is the fixed seed. Until then the edit is its source, whose state it shares in a sweep.
    """

    switch_after: float = 0.2
    name: ClassVar[str] = "prompt_switch"
    uses_mask: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_finite("switch_after", self.switch_after)
        if not 0 <= self.switch_after < 1:
            raise ValueError(f"switch_after: {self.switch_after!r} is not in [0, 1)")

    def trajectory(
        self, request: EditRequest, tokenizers: Tokenizers, num_inference_steps: int
    ) -> Trajectory:
        """Return denoising of one prompt, then the other. Raises ValueError for a share that comes to no
        step.
        """
        check_prompt(request.target_prompt, tokenizers)
        steps = whole_steps(self.switch_after, num_inference_steps)
        if self.switch_after and not steps:
            raise ValueError(
                f"switch_after: {self.switch_after} of {num_inference_steps} steps is no step, "
                f"allowed are 0 and 1/{num_inference_steps} or more"
            )
        before = (request.source_prompt, steps) if steps else None
        return Trajectory(request.target_prompt, (), before=before)
