#!/usr/bin/env bash
# The same img2img strength adds twice as much noise with one scheduler as with another.
#
# Package: diffusers 0.42.1.
# Guess: `strength` says how much noise is put on the picture, so two schedulers with the same strength start from
#   pictures that are equally far from the original, and half the strength is half the way.
# Found: `strength` is a share of the steps, and what noise the first kept step has is the schedule's affair. At
#   strength 0.33 of 20 steps DDIM starts at t = 251, where noise has a weight of 0.57, and DPM-Solver++ with Karras
#   sigmas at t = 69, weight 0.26. More steps shift it too. The share is cut, not rounded, and 0.58 of 50 is 28 steps
#   and not 29, as 50 * 0.58 is 28.999999999999996.
# Matters: SDEdit is the baseline of most editing papers, swept over strength. Curves of two schedulers over
#   "strength" compare different amounts of noise, and equal strengths are no equal preservation of the picture.
# Source: `get_timesteps` in diffusers/pipelines/stable_diffusion/pipeline_stable_diffusion_img2img.py; the
#   parameter's documentation says that more noise is added the higher the strength.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile \
    diffusers==0.42.1 transformers==5.23.0 torch==2.14.1 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionImg2ImgPipeline,
    UNet2DConditionModel,
)

torch.manual_seed(0)
unet = UNet2DConditionModel(
    sample_size=8,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    block_out_channels=(16, 32),
    layers_per_block=1,
    attention_head_dim=2,
    cross_attention_dim=32,
    norm_num_groups=8,
)
vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=8)
text = torch.randn(1, 77, 32)


def start(scheduler, steps, strength):
    """Return the number of steps that run, the first timestep, and the weight of the noise there."""
    pipe = StableDiffusionImg2ImgPipeline(
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    seen = []
    pipe(
        image=torch.full((1, 3, 8, 8), 0.5),
        strength=strength,
        num_inference_steps=steps,
        prompt_embeds=text,
        negative_prompt_embeds=0 * text,
        output_type="latent",
        callback_on_step_end=lambda pipe, index, timestep, values: seen.append(int(timestep)) or {},
    )
    return len(seen), seen[0], round(float((1 - scheduler.alphas_cumprod[seen[0]]).sqrt()), 2)


betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
found = {}
for steps, strength in ((20, 0.33), (50, 0.33), (50, 0.58)):
    found[steps, strength] = (
        start(DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **betas), steps, strength),
        start(DPMSolverMultistepScheduler(use_karras_sigmas=True, **betas), steps, strength),
    )
    print(f"{strength} of {steps} steps: DDIM {found[steps, strength][0]}, Karras {found[steps, strength][1]}")
assert found[20, 0.33] == ((6, 251, 0.57), (6, 69, 0.26)), "0.33 of 20"
assert found[50, 0.33][0][1] > 1.9 * found[50, 0.33][1][1], "0.33 of 50"
assert found[50, 0.58][0][0] == found[50, 0.58][1][0] == 28, "0.58 of 50"
PYTHON
