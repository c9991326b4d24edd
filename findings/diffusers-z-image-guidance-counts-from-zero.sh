#!/usr/bin/env bash
# Z-Image's guidance scale is one less than everybody else's: 1 guides by 2, and only 0 is off.
#
# Package: diffusers 0.42.1.
# Guess: `guidance_scale` means what it means in the other pipelines, uncond + w (text - uncond): 1 is unguided
#   and needs no negative prompt, 7.5 is 7.5.
# Found: the pipeline computes text + w (text - uncond), which is a scale of 1 + w, and runs the unconditional half
#   of the batch for every w above 0. With w = 1 the prediction is 2 text - uncond. The parameter's documentation
#   gives the usual meaning and says that guidance is on above 1.
# Matters: a sweep over guidance, or a comparison of editors at "the same" guidance, is off by one against every other
#   model, and an inversion made "without guidance" at 1 is guided by 2 and does not come back.
# Source: `ZImagePipeline.__call__` in diffusers/pipelines/z_image/pipeline_z_image.py.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile \
    diffusers==0.42.1 transformers==5.23.0 torch==2.14.1 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

torch.manual_seed(0)
transformer = ZImageTransformer2DModel(
    in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16, axes_dims=[8, 4, 4]
)
with torch.no_grad():  # the padding tokens are made without values, the last layer with zeros
    for parameter in transformer.parameters():
        parameter.copy_(0.2 * torch.randn_like(parameter))
pipe = ZImagePipeline(
    scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=8),
    text_encoder=None,
    tokenizer=None,
    transformer=transformer,
)
pipe.set_progress_bar_config(disable=True)
text, empty = torch.randn(32, 16), torch.randn(32, 16)
start = torch.randn(1, 4, 16, 16)
rows = []
transformer.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))


def change(embeds, guidance_scale):
    """Return what one step adds to the latents, which is linear in the guided prediction."""
    result = pipe(
        prompt_embeds=[embeds],
        negative_prompt_embeds=[empty],
        guidance_scale=guidance_scale,
        num_inference_steps=1,
        height=16,
        width=16,
        latents=start.clone(),
        output_type="latent",
    )
    return result.images - start


conditional, unconditional = change(text, 0.0), change(empty, 0.0)
difference = conditional - unconditional
for told in (0.0, 0.5, 1.0, 4.0):
    rows.clear()
    scale = float(((change(text, told) - unconditional) * difference).sum() / (difference * difference).sum())
    print(f"guidance_scale {told}: the usual scale is {scale:.3f}, {rows[0]} rows for one picture")
    assert abs(scale - (1 + told)) < 1e-3, scale
    assert rows == [1 if told == 0 else 2], rows
PYTHON
