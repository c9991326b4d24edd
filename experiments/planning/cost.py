"""What a plan costs, in words; and how long one UNet evaluation takes on this machine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from torch import Tensor

from experiments.planning.plan import Plan
from p2p.devices import resolve_device
from p2p.families.model import Model, stack_rows
from p2p.flow_solvers import steps_that_count
from p2p.loading.model_spec import ModelSpec
from p2p.memory import attempt


def describe(whole: Plan, left: Plan) -> str:
    """Return a plan's groups, branches, cost, what sharing saves, and what is done already."""
    by_method = Counter(branch.method for group in whole.groups for branch in group.branches)
    pairs = {branch.pair.id for group in whole.groups for branch in group.branches}
    seeds = {group.seed for group in whole.groups}
    lines = [
        f"{len(pairs)} pairs x {len(seeds)} seeds: {len(whole.groups)} groups, {whole.images} edited images "
        f"({', '.join(f'{n} {method}' for method, n in sorted(by_method.items()))})",
        f"{whole.evaluations:,} UNet evaluations "
        f"({whole.unshared_evaluations:,} if every branch ran by itself)",
    ]
    if whole.inversion_evaluations:
        lines.append(
            f"{whole.inversion_evaluations:,} of them at most for inverting images; early stops and "
            "inversions that are kept already save some"
        )
    if idle := _idle_steps(whole.model.scheduler):
        lines.append(idle)
    if whole.external_evaluations:
        lines.append(
            f"about {whole.external_evaluations:,} evaluations by other pipelines on top, an estimate by the "
            "rows_per_step of their methods"
        )
    if whole.merged:
        lines.append(f"{whole.merged} settings give the same image as others and are made once")
    auto = {candidate["pair_id"] for candidate in whole.candidates}
    if whole.auto_tau and pairs - auto:
        lines.append(f"{len(pairs - auto)} pairs only re-weight words: auto tau chooses nothing for them")
    if left.images < whole.images:
        lines.append(
            f"{whole.images - left.images} images are there already; "
            f"{left.evaluations:,} evaluations are left"
        )
    return "\n".join(lines)


def _idle_steps(scheduler: Any) -> str:
    """Say how many of a flow's steps count, "" where all do or the scheduler is not of a flow."""
    if not hasattr(scheduler, "scale_noise"):
        return ""
    sigmas = [float(sigma) for sigma in scheduler.sigmas]
    steps, counted = len(sigmas) - 1, steps_that_count(sigmas)
    if counted == steps:
        return ""
    return (
        f"{counted} of the {steps} steps count: this schedule starts its last at {sigmas[-2]:.2g} of noise, "
        "so that it does next to nothing"
    )


def places(spec: ModelSpec, metrics: Sequence[Any]) -> str:
    """Say in words on which devices, and in which precision, a plan's model and metrics run."""
    stages = [("model", spec), *([("upscaler", spec.upscaler)] if spec.upscaler else [])]
    told = [f"{name} on {resolve_device(s.device, elsewhere=True)} in {s.dtype}" for name, s in stages]
    devices = sorted({str(metric.device) for metric in metrics if hasattr(metric, "device")})
    told += [f"metrics on {', '.join(devices)}"] if devices else []
    return f"{', '.join(told)}; a plan for another machine must be told its device= or model.dtype="


def estimate(spec: ModelSpec, plan: Plan) -> str:
    """Return how long the plan will take, or that it cannot be known without the weights."""
    if not plan.groups:
        return "nothing is left to compute"
    if spec.local_folder() is None:
        return f"time unknown: the weights of {spec.path!r} are not on this machine"
    try:
        resolve_device(spec.device)
    except ValueError as error:
        return f"time unknown: {error}"
    model = replace(spec, compile=False).load()  # compiling takes longer than a plan should
    rows, upscaled = plan.sampling.max_batch, plan.upscaler_evaluations
    seconds = seconds_per_evaluation(model, rows) * (plan.evaluations - upscaled)
    if model.upscaler is not None:
        small = torch.zeros(1, *model.latent_shape)
        seconds += seconds_per_evaluation(model.upscaler, rows, small) * upscaled
    duration = timedelta(seconds=round(seconds))
    others = "other pipelines, " if plan.pipelines else ""
    return f"about {duration} of denoising on this machine; {others}decoding and metrics come on top"


def seconds_per_evaluation(model: Model, rows: int, small: Tensor | None = None) -> float:
    """Return the seconds of one UNet evaluation (a row) in a call of `rows`, at most 16: the better of two.

    Where memory runs out, the call has half as many rows. `small` (1, 3, height, width) is an image for an
    upscaler to enlarge.
    """
    rows = min(rows, 16)
    seconds = attempt(partial(_seconds, model, rows, small), "denoiser: at one row" if rows == 1 else None)
    return seconds / rows if seconds is not None else seconds_per_evaluation(model, rows // 2, small)


@torch.no_grad()
def _seconds(model: Model, rows: int, small: Tensor | None) -> float:
    """Return how many seconds one call of the denoiser with so many rows takes."""
    latents = torch.zeros(rows, *model.latent_shape, device=model.device, dtype=model.dtype)
    row = dict(model.encode_prompt(""))
    if small is not None:
        condition = model.condition(small, torch.zeros_like(latents[:1]))
        row |= {name: values[0] for name, values in condition.items()}
    conditioning = stack_rows([row] * rows)
    timestep = torch.tensor(500, device=model.device)
    times = []
    for _ in range(2):
        began = time.perf_counter()
        model.predict(latents, timestep, conditioning)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        elif model.device.type == "mps":
            torch.mps.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)
