#!/usr/bin/env bash
# With Stable Diffusion 3's schedule the last step starts at 0.9 % of noise, however few steps there are.
#
# Package: diffusers 0.42.1.
# Guess: `set_timesteps(n)` of FlowMatchEulerDiscreteScheduler shares the way from noise to picture out among n
#   steps, so that each of 4 steps does about a quarter of it.
# Found: timesteps run from the most noise down to `sigma_min`, 1/1000 of a training schedule, which is not the end:
#   a step from there to 0 comes on top. With `shift=3`, as Stable Diffusion 3 and 3.5 have it, sigma_min is shifted
#   when the scheduler is made and again by set_timesteps: 0.0089. The last step covers that much for 4 steps as for
#   50, and the one before it leaps from 0.60 in four steps. On a Gaussian, where the answer is known, four steps end
#   as far off as three steps that are given as `sigmas`; four that are given end nearer.
# Matters: a model of four steps (Stable Diffusion 3.5 Large Turbo) makes three and pays for four; a threshold given as
#   a share of the steps counts one in which nothing is left to decide. Pipelines that pass `sigmas` (Flux) do not.
# Source: `__init__` and `set_timesteps` in diffusers/schedulers/scheduling_flow_match_euler_discrete.py.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile diffusers==0.42.1 torch==2.14.1 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

STD = 0.5  # of the Gaussian that the flow leads to


def ending(**timesteps):
    """Return the noise levels, and the standard deviation at which noise of 1 ends by the scheduler's own steps."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(**timesteps)
    sample = torch.ones(1, dtype=torch.float64)
    for sigma, timestep in zip(scheduler.sigmas[:-1].double(), scheduler.timesteps):
        velocity = sample * (sigma - (1 - sigma) * STD**2) / ((1 - sigma) ** 2 * STD**2 + sigma**2)
        sample = scheduler.step(velocity, timestep, sample).prev_sample.double()
    return scheduler.sigmas, float(sample)


for steps in (4, 8, 28, 50):
    sigmas, _ = ending(num_inference_steps=steps)
    print(f"{steps} steps: the last starts at {sigmas[-2]:.4f}, the one before it at {sigmas[-3]:.4f}")
    assert abs(float(sigmas[-2]) - 0.0089) < 1e-4, "the last step does more now"

errors = {}
for name, timesteps in {
    "4 steps": {"num_inference_steps": 4},
    "3 given": {"sigmas": np.linspace(1, 1 / 3, 3)},
    "4 given": {"sigmas": np.linspace(1, 1 / 4, 4)},
}.items():
    sigmas, std = ending(**timesteps)
    errors[name] = abs(std - STD)
    print(f"{name}: {[round(float(sigma), 3) for sigma in sigmas]} end at {std:.4f}, {errors[name]:.4f} off")
assert abs(errors["4 steps"] - errors["3 given"]) < abs(errors["4 steps"] - errors["4 given"])
assert errors["4 given"] < errors["4 steps"]
PYTHON
