"""The schedulers that are tested, each with how exactly it repeats, and those that are refused."""

from typing import Any

STEPS = 6
EXACT = 1e-9
# These hold sigmas, or round every step, in single precision whatever they are given; a last digit may grow.
SINGLE = 1e-5
SCHEDULERS: list[tuple[str, dict[str, Any], float]] = [
    ("DDIMScheduler", {}, EXACT),
    ("DDIMScheduler", {"timestep_spacing": "trailing"}, EXACT),
    ("DDPMScheduler", {}, EXACT),
    ("DEISMultistepScheduler", {}, EXACT),
    ("DPMSolverMultistepScheduler", {}, SINGLE),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True, "solver_order": 3}, SINGLE),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, SINGLE),
    ("DPMSolverSinglestepScheduler", {}, EXACT),
    ("EDMEulerScheduler", {}, SINGLE),
    ("EulerAncestralDiscreteScheduler", {}, SINGLE),
    ("EulerDiscreteScheduler", {}, SINGLE),
    ("LCMScheduler", {}, EXACT),
    ("LMSDiscreteScheduler", {}, EXACT),
    ("PNDMScheduler", {"skip_prk_steps": True}, EXACT),
    ("TCDScheduler", {}, EXACT),
    ("UniPCMultistepScheduler", {}, EXACT),
]
REFUSED = {
    "DPMSolverSDEScheduler": "cannot be loaded: DPMSolverSDEScheduler requires the torchsde library",
    "HeunDiscreteScheduler": "calls the UNet 11 times for 6 steps (2 a step), but the windows of an edit",
    "KDPM2DiscreteScheduler": "calls the UNet 11 times for 6 steps (2 a step), but the windows of an edit",
    "KDPM2AncestralDiscreteScheduler": "calls the UNet 11 times for 6 steps (2 a step), but the windows",
}
