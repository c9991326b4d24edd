#!/usr/bin/env bash
# A DoRA in kohya's format is loaded as a plain LoRA: its magnitudes are thrown away.
#
# Package: diffusers 0.42.1 with peft 0.21.0.
# Guess: a DoRA file is either applied as DoRA, which peft implements and the kohya converter of diffusers has code
#   for, or refused.
# Found: every `dora_scale` is filtered out before the conversion, one line is logged, and what is left, the two low-rank
#   matrices, is applied as a LoRA. The weights then have whatever magnitude W + BA happens to have. Nothing is
#   raised, and the adapter counts as loaded.
# Matters: many shared LoRA files have kohya's names. The style or subject is in the picture, only too strong or too
#   weak, so that a comparison with the trainer's samples, or of editing methods on top of it, is a comparison with
#   another model.
# Source: `lora_state_dict` in diffusers/loaders/lora_pipeline.py; formula: Liu et al. 2024 (DoRA).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile \
    diffusers==0.42.1 transformers==5.23.0 peft==0.21.0 torch==2.14.1 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file

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
pipe = StableDiffusionPipeline(
    vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=8),
    text_encoder=None,
    tokenizer=None,
    unet=unet,
    scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
    safety_checker=None,
    feature_extractor=None,
    requires_safety_checker=False,
)
attention = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1
weight = attention.to_q.weight.detach().clone()
down, up = 0.3 * torch.randn(4, 16), 0.3 * torch.randn(16, 4)
magnitude = torch.rand(16, 1) + 0.5
layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q."
tensors = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(4.0), "dora_scale": magnitude}
save_file({layer + name: tensor for name, tensor in tensors.items()}, "dora.safetensors")
pipe.load_lora_weights("dora.safetensors")

with torch.no_grad():
    loaded = attention.to_q(torch.eye(16)).T
lora = weight + up @ down
dora = magnitude * lora / lora.norm(dim=1, keepdim=True)
from_lora, from_dora = (round(float((loaded - other).abs().max()), 4) for other in (lora, dora))
print(f"{pipe.get_active_adapters()}: the layer is {from_lora} from the LoRA, {from_dora} from the DoRA")
assert from_lora < 1e-4, "it is no plain LoRA any more"
assert from_dora > 0.05, "it is the DoRA now"
PYTHON
