"""What the engine needs of a diffusers scheduler: T or T + 1 calls, one draw for all branches of a group, and
a history that can be split where branches part. Any other scheduler is refused, in one line.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

KNOWN = (  # shown by tests/p2p/test_schedulers.py to equal a plain run; others may pass `set_timesteps` too
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)


def scheduler_class(name: object) -> Any:
    """Return the scheduler class of diffusers with this name.

    Raises ValueError where there is no such class, or where a library that the class needs is not installed.
    """
    import diffusers  # takes seconds

    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    try:
        if hasattr(kind, "set_timesteps"):
            return kind
    except ImportError as error:  # diffusers' stand-in for a class whose library is not installed
        raise _refusal(name, "cannot be loaded: " + _one_line(error)) from None
    raise ValueError(f"scheduler: {name!r} is no scheduler of diffusers, allowed are {', '.join(KNOWN)}")


def new_scheduler(name: object, config: dict[str, Any]) -> Any:
    """Return a scheduler made from a config. Raises ValueError where the class does not take it."""
    kind = scheduler_class(name)
    try:
        return kind.from_config(config)
    except Exception as error:  # of whatever kind: it comes of what the config holds
        raise _refusal(name, "cannot be made from its config: " + _one_line(error)) from error


def check_settings(name: object, settings: Iterable[str]) -> None:
    """Raise ValueError for a setting that neither this class nor any of KNOWN has: diffusers would ignore it.

    A setting of another known class passes, so that a model's scheduler can be changed without its config.
    """
    own = set(inspect.signature(scheduler_class(name)).parameters)
    unknown = {setting for setting in settings if setting[0] != "_"} - own
    if unknown:  # only then are the others imported, which takes seconds
        unknown -= set().union(*(inspect.signature(scheduler_class(kind)).parameters for kind in KNOWN))
    if unknown:
        raise ValueError(
            f"scheduler_config: {', '.join(map(repr, sorted(unknown)))} is no setting of {name}, allowed are "
            f"{', '.join(sorted(own))}"
        )


def check_agreement(
    path: str, own: Mapping[str, Any], settings: Mapping[str, Any], names: Iterable[str]
) -> None:
    """Raise ValueError where settings of these names contradict the config `own` of the pipeline at a path.

    Where the config lacks a setting, its class's default holds. They are settings that were written for other
    weights: under a prediction type that a network was not trained for, its output is read as what it is not.
    """
    for name in names:
        stated = own[name] if name in own else _default(own.get("_class_name"), name, settings[name])
        if stated != settings[name]:
            raise ValueError(
                f"scheduler_config.{name}: {settings[name]!r} was written for other weights, {path!r} has "
                f"{stated!r}; allowed are model=folder, which takes the folder's own, or to name what holds, "
                f"model.scheduler_config.{name}=..."
            )


def _default(kind: object, setting: str, otherwise: Any) -> Any:
    """Return the default of a setting in the scheduler class of this name, `otherwise` where it has none."""
    import diffusers

    found: Any = getattr(diffusers, str(kind), None)
    parameters = inspect.signature(found).parameters if hasattr(found, "set_timesteps") else {}
    return parameters[setting].default if setting in parameters else otherwise


def corrections(name: object, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a pipeline's corrections that are settings of this scheduler class."""
    own = inspect.signature(scheduler_class(name)).parameters
    return {setting: value for setting, value in settings.items() if setting in own}


def set_timesteps(
    scheduler: Any, num_inference_steps: int, device: Any = None, options: Mapping[str, Any] | None = None
) -> int:
    """Set a scheduler's timesteps and return their number, T or T + 1.

    An edit's windows are rows of a table of T + 1 calls. `options` are further arguments of the scheduler's
    `set_timesteps`. Whether branches can part is tried out on a copy. Raises ValueError for a scheduler that
    the engine cannot work with.
    """
    kind: Any = type(scheduler)
    name = kind.__name__
    if num_inference_steps == 1 and scheduler.config.get("shift_terminal"):  # diffusers divides 0 by 0
        raise _refusal(name, "makes no single step with shift_terminal, but two or more")
    try:
        scheduler.set_timesteps(num_inference_steps, device=device, **(options or {}))
    except Exception as error:  # of whatever kind: it would come in every run
        raise _refusal(name, f"does not make {num_inference_steps} steps: {_one_line(error)}") from error
    calls, order = len(scheduler.timesteps), getattr(scheduler, "order", 1)
    if calls not in (num_inference_steps, num_inference_steps + 1) or order != 1:
        note = "" if order == 1 else f" ({order} a step)"
        if not scheduler.config.get("skip_prk_steps", True):
            note = " (scheduler_config.skip_prk_steps: true leaves the Runge-Kutta calls out)"
        raise _refusal(
            name,
            f"calls the UNet {calls} times for {num_inference_steps} steps{note}, "
            "but the windows of an edit count T or T + 1 calls",
        )
    if (scheduler.timesteps.diff() > 0).any():
        raise _refusal(name, "goes from the image to noise")
    config = json.dumps(dict(scheduler.config), default=str)
    _try_out(kind, config, num_inference_steps, json.dumps(dict(options or {})))
    return calls


def check_start(start: int, calls: int, num_inference_steps: int) -> None:
    """Raise ValueError where a trajectory cannot start at this step.

    PNDM (PLMS) calls the denoiser twice for one step, so it makes T + 1 calls. diffusers' img2img takes the
    calls from number `start` on, and the first of them treats the latents as less noisy than they are.
    """
    if start and calls != num_inference_steps:
        raise ValueError(
            f"strength: SDEdit would start at step {start} of a scheduler that makes {calls} calls for "
            f"{num_inference_steps} steps (PNDM), allowed are strength 1 and schedulers of one call a step"
        )


def noised(scheduler: Any, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return latents with the noise that they have at each row's timestep, one of the scheduler's."""
    if hasattr(scheduler, "scale_noise"):  # flow matching
        return scheduler.scale_noise(latents, timesteps, noise)
    return scheduler.add_noise(latents, noise, timesteps)


def noise_share(scheduler: Any, step: int) -> float:
    """Return the share of noise in the variance of the state that a step starts from, in [0, 1].

    A state is `alpha x + sigma noise`, and its share `sigma^2 / (alpha^2 + sigma^2) = 1 / (1 + SNR)`, as if x
    had variance 1. For schedulers that scale by sigma alone (Euler) alpha is 1, in flow matching 1 - sigma;
    so equal shares are equal noise whatever the schedule. `step` counts from 0 in the timesteps that are set.
    """
    scheduler = copy.deepcopy(scheduler)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(step)
    nothing, one = torch.zeros(1, 1, 1, 1, dtype=torch.float64), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    timestep = scheduler.timesteps[step : step + 1]
    alpha, sigma = (
        noised(scheduler, latents, noise, timestep).item()
        for latents, noise in ((one, nothing), (nothing, one))
    )
    return float(sigma**2 / (alpha**2 + sigma**2))


def fork(scheduler: Any, parents: Tensor, latents: Tensor) -> None:
    """Rearrange a multistep scheduler's history, its tensors shaped as `latents`: row i becomes a copy of row
    `parents[i]`.
    """

    def split(value: Any) -> Any:
        if isinstance(value, Tensor) and value.shape == latents.shape:
            return value[parents]
        if isinstance(value, list):
            return [split(item) for item in value]
        return value

    for name, value in vars(scheduler).items():
        if isinstance(value, (Tensor, list)):
            setattr(scheduler, name, split(value))


def scale_model_input(scheduler: Any, latents: Tensor, timestep: Tensor) -> Tensor:
    """Return the latents as the denoiser takes them; a flow-matching scheduler leaves them as they are."""
    if not hasattr(scheduler, "scale_model_input"):
        return latents
    return scheduler.scale_model_input(latents, timestep)


def take_step(
    scheduler: Any,
    noise_pred: Tensor,
    timestep: Tensor,
    latents: Tensor,
    groups: Sequence[int],
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Return the latents after one step; `groups` is the group of each row, `generators` one per group.

    A stochastic scheduler draws once per group, so that all rows of a group get one draw.
    """
    options: dict[str, Any] = {}
    allowed = inspect.signature(scheduler.step).parameters
    if "eta" in allowed:
        options["eta"] = 0.0  # as diffusers' pipelines do; TCDScheduler.step alone would take 0.3
    if "order" in allowed:  # LMS counts steps from T, but has no derivatives of steps before SDEdit's start
        options["order"] = min(4, len(scheduler.derivatives) + 1)
    rows = [torch.Generator() for _ in groups]
    if "generator" in allowed:
        states = [generator.get_state() for generator in generators]
        for row, group in zip(rows, groups, strict=True):
            row.set_state(states[group])
        options["generator"] = rows
    latents = scheduler.step(noise_pred, timestep, latents, return_dict=False, **options)[0]
    if "generator" in allowed:
        for row, group in zip(rows, groups, strict=True):
            generators[group].set_state(row.get_state())
    return latents


@cache
def _try_out(kind: Any, config: str, num_inference_steps: int, options: str) -> None:
    """Raise ValueError unless branches that part midway end exactly where each ends when it is run alone.

    Predictions are made up, so the trial takes a fraction of a second, once per scheduler. It finds any
    state, draw or coupling of rows that `fork` and `take_step` do not know of.
    """
    name, trial = kind.__name__, kind.from_config(json.loads(config))
    told = json.loads(options)
    alone = torch.cat([_walk(trial, num_inference_steps, told, [branch]) for branch in range(3)])
    if not alone.isfinite().all():
        zero_snr = trial.config.get("rescale_betas_zero_snr")
        note = ": zero terminal SNR needs prediction_type v_prediction or sample" if zero_snr else ""
        raise _refusal(name, "makes latents that are not finite" + note)
    try:
        together = _walk(trial, num_inference_steps, told, range(3))
    except ValueError:
        together = torch.full_like(alone, torch.inf)
    # A part of the history that is not split makes differences of this scale; float32 rounds to 1e-6 of it.
    if (together - alone).abs().max() > 1e-4 * alone.abs().max():
        plain = (type(None), bool, int, float, str, list, Tensor, np.ndarray)
        objects = [k for k, v in vars(trial).items() if k[0] != "_" and not isinstance(v, plain)]
        state = ", ".join(objects) or "unknown"
        raise _refusal(name, f"has a state that cannot be split where branches part ({state})")


def _walk(
    scheduler: Any, num_inference_steps: int, options: Mapping[str, Any], branches: Sequence[int]
) -> Tensor:
    """Return the final latents (branches, 4, 4, 4) after made-up predictions.

    Branches 0, 1 and 2 share a state in the first third of the steps; 1 and 2 share one in the second third.
    """
    scheduler.set_timesteps(num_inference_steps, **options)
    learned = scheduler.config.get("variance_type") in ("learned", "learned_range")
    made_up, draws = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
    latents = torch.randn(1, 4, 4, 4, generator=made_up, dtype=torch.float64)
    states = [0] * len(branches)  # of each branch: what it shares with the others
    rows = [0]
    for step, timestep in enumerate(scheduler.timesteps):
        phase = 3 * step // len(scheduler.timesteps)
        new_states = [(0, min(branch, 1), branch)[phase] for branch in branches]
        new_rows = sorted(set(new_states), reverse=True)  # rows move when there are more of them
        parents = torch.tensor([rows.index(states[new_states.index(row)]) for row in new_rows])
        states, rows = new_states, new_rows
        fork(scheduler, parents, latents)
        latents = latents[parents]
        outputs = torch.randn(3, 8 if learned else 4, 4, 4, generator=made_up, dtype=torch.float64)[rows]
        try:
            scale_model_input(scheduler, latents, timestep)
            latents = take_step(scheduler, outputs, timestep, latents, [0] * len(rows), [draws])
        except Exception as error:
            where = f"step {step + 1} of {num_inference_steps}"
            raise _refusal(type(scheduler).__name__, f"cannot take {where}: {_one_line(error)}") from error
    return latents[[rows.index(state) for state in states]]


def _refusal(name: object, why: str) -> ValueError:
    return ValueError(f"scheduler: {name} {why}; allowed are {', '.join(KNOWN)}")


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]
