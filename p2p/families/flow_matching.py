"""What flow-matching transformers tell their scheduler: by how much its steps are shifted towards noise."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any


def flow_options(
    scheduler: Any, mu: float | None, sigmas: Sequence[float] | None = None
) -> Mapping[str, Any]:
    """Return the options of `scheduler.set_timesteps`; a scheduler with sigmas of its own is not told any.

    Raises ValueError for a scheduler that is not for flow matching: its images would be noise.
    """
    name, config = type(scheduler).__name__, scheduler.config
    flow_sigmas = config.get("use_flow_sigmas", False)
    known = inspect.signature(scheduler.set_timesteps).parameters
    if not (hasattr(scheduler, "scale_noise") or flow_sigmas) or (mu is not None and "mu" not in known):
        raise ValueError(
            f"scheduler: {name} is not for flow matching, allowed are FlowMatchEulerDiscreteScheduler or, "
            "with use_flow_sigmas, DPMSolverMultistepScheduler"
        )
    options: dict[str, Any] = {} if mu is None else {"mu": mu}
    if sigmas is not None and "sigmas" in known and not flow_sigmas:
        options["sigmas"] = list(sigmas)
    return options


def shift(config: Any, image_tokens: int, max_shift: float) -> float:
    """Return `mu`, linear in the number of image tokens (Esser et al. 2024, Sec. 5.3.2).

    `config` is the scheduler's; `max_shift` is what holds where it has none, in which pipelines differ.
    """
    least, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", max_shift)
    slope: float = (high - low) / (most - least)
    return image_tokens * slope + (low - slope * least)
