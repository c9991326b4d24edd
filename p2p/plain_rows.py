"""The denoiser called on rows as they are, without injected attention: what inversions and FlowEdit do."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from p2p.devices import overflow_advice
from p2p.families.model import Conditioning, Model, stack_rows
from p2p.memory import attempt
from p2p.sampling import Calls


def predict_rows(
    model: Model,
    latents: Tensor,
    timestep: Tensor,
    rows: Sequence[Conditioning],
    calls: Calls,
    guidance_scales: Sequence[float] | None = None,
) -> Tensor:
    """Return the denoiser's output for each row, in calls of `calls.max_rows`, in the latents' precision.

    `guidance_scales`, one a row (None: 1), are for denoisers that are told them.
    """
    outputs = []
    begin = 0
    while begin < len(rows):
        part = rows[begin : begin + calls.max_rows]
        own = latents[begin : begin + len(part)].to(model.dtype)
        call = partial(model.predict, own, timestep, stack_rows(part))
        if guidance_scales is not None:
            call = partial(call, guidance_scale=guidance_scales[begin : begin + len(part)])
        output = attempt(call, "inversion: at one row" if len(part) == 1 else None)
        if output is None:
            calls.max_rows = len(part) // 2
            continue
        outputs.append(output)
        calls.on_rows(len(part))
        begin += len(part)
    return torch.cat(outputs).to(latents.dtype)


def finite(latents: Tensor, dtype: torch.dtype) -> Tensor:
    """Return latents as they are. Raises FloatingPointError where a value is not finite.

    `dtype` is the model's; the latents may be in a finer one.
    """
    if not latents.isfinite().all():
        raise FloatingPointError(f"inversion: latents are not finite{overflow_advice(dtype)}")
    return latents
