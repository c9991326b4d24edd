"""What Prompt-to-Prompt is compared with: the fixed-seed image of the target prompt, and SDEdit.

Both have what a method needs (`p2p.trajectory.Method`): the class variables `name` and
`uses_mask` (whether it is given the pair's mask), and `trajectory(...)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from p2p.alignment import Tokenizers, check_prompt
from p2p.trajectory import EditRequest, Trajectory


@dataclass(frozen=True)
class FixedSeed:
    """Generate the target prompt from the source's seed, nothing injected: P2P at tau = 1."""

    name: ClassVar[str] = "fixed_seed"
    uses_mask: ClassVar[bool] = False

    def trajectory(
        self, request: EditRequest, tokenizers: Tokenizers, num_inference_steps: int
    ) -> Trajectory:
        """Return plain denoising of the target prompt; weights have nothing to act on."""
        check_prompt(request.target_prompt, tokenizers)
        return Trajectory(request.target_prompt, ())


@dataclass(frozen=True)
class SDEdit:
    """Noise the source image to a middle step, denoise it with the target prompt (Meng et al. 2022).

    As diffusers' img2img: of T steps the last `min(int(T * strength), T)` are run, so 0.58 of 50 is 28 steps.
    It differs under LMS, whose order here is that of the steps taken, and under PNDM, which is refused at
    strengths below 1 (`p2p.schedulers.check_start`). diffusers' pipelines for SD 3 and Flux leave out
    `int(T - T * strength)` steps and so round up what is run: 0.33 of 20 is 7 steps there, 6 here.

    A strength is a share of the steps, not of noise: 0.33 of 20 steps starts at 0.33 of noise under DDIM, at
    0.07 under DPM-Solver++ with Karras's sigmas (`p2p.schedulers.noise_share`, which records tell).
    """

    strength: float
    name: ClassVar[str] = "sdedit"
    uses_mask: ClassVar[bool] = False

    def __post_init__(self) -> None:
        number = isinstance(self.strength, (int, float)) and not isinstance(self.strength, bool)
        if not number or not 0 < self.strength <= 1:
            raise ValueError(f"strength: {self.strength!r} is not in (0, 1]")

    def trajectory(
        self, request: EditRequest, tokenizers: Tokenizers, num_inference_steps: int
    ) -> Trajectory:
        """Return plain denoising of the noised source. Raises ValueError for a strength without a step."""
        check_prompt(request.target_prompt, tokenizers)
        steps = min(int(num_inference_steps * self.strength), num_inference_steps)
        if not steps:
            raise ValueError(
                f"strength: {self.strength} of {num_inference_steps} steps is no step, "
                f"allowed is 1/{num_inference_steps} or more"
            )
        record = {"strength": float(self.strength)}
        return Trajectory(request.target_prompt, (), num_inference_steps - steps, record=record)
