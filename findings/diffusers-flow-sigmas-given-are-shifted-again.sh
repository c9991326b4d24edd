#!/usr/bin/env bash
# The noise levels that a flow scheduler tells are not the ones to give it: `sigmas=` are shifted, also shifted ones.
#
# Package: diffusers 0.42.1.
# Guess: `set_timesteps(sigmas=...)` of FlowMatchEulerDiscreteScheduler, which pipelines offer as `sigmas=`, "custom
#   values for sigmas to be used for each diffusion step", takes those values; handing a scheduler the `sigmas` of
#   another one of the same config gives the same schedule.
# Found: what is given is shifted by `shift` (or by `mu`, with dynamic shifting), without a word. With `shift=3`, as
#   Stable Diffusion 3 has it, the levels of six steps come back as 0.86 for 0.67 and 0.70 for 0.43, so that all but
#   the start is noisier. To get a level s one gives s / (shift - (shift - 1) s). Given `timesteps` are shifted too,
#   but that is warned of. With `shift=1` both are taken as they are.
# Matters: whoever inverts a picture, reads the levels of the way up and gives them to the pipeline for the way down
#   denoises by another schedule; so does whoever enters the levels that a paper prints or another code logs.
# Source: `set_timesteps` in diffusers/schedulers/scheduling_flow_match_euler_discrete.py.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile diffusers==0.42.1 torch==2.14.1 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler

STEPS = 6


def levels(config, **given):
    """Return the noise levels of a new scheduler, without the 0 at their end."""
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    scheduler.set_timesteps(**given)
    return scheduler.sigmas[:-1].double().numpy()


for name, config, mu, shift in (
    ("shift=1", {"shift": 1.0}, {}, 1.0),
    ("shift=3", {"shift": 3.0}, {}, 3.0),
    ("dynamic, mu=1.15", {"use_dynamic_shifting": True}, {"mu": 1.15}, float(np.exp(1.15))),
):
    told = levels(config, num_inference_steps=STEPS, **mu)
    again = levels(config, sigmas=told.tolist(), **mu)
    back = levels(config, sigmas=(told / (shift - (shift - 1) * told)).tolist(), **mu)
    print(f"{name}: told     {told.round(3)}")
    print(f"{name}: given it {again.round(3)}")
    np.testing.assert_allclose(again, shift * told / (1 + (shift - 1) * told), atol=1e-5)
    np.testing.assert_allclose(back, told, atol=1e-5)
    same = bool(np.allclose(again, told, atol=1e-3))
    assert same == (shift == 1), "what is given is now taken as it is"
PYTHON
