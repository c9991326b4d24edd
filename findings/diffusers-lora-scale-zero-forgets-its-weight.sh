#!/usr/bin/env bash
# One image at LoRA scale 0, and every later one has the LoRA at full strength, whatever weight was set.
#
# Package: diffusers 0.42.1 with peft 0.21.0.
# Guess: `cross_attention_kwargs={"scale": s}` holds for its call; afterwards the weight of `set_adapters` is back.
# Found: so it is for every s but 0. After a call with 0 the weights of all active adapters are 1, and the next image
#   is the one of `set_adapters(name, 1.0)`, not that of the 0.5 that was set. The image made with 0 is right.
# Matters: "the same without the LoRA" is the natural baseline, made in the same loop. All images after the first
#   baseline have another LoRA than those before, so that a sweep over prompts or seeds compares two models, and two
#   adapters mixed by weights are mixed one to one.
# Source: `unscale_lora_layers` in diffusers/utils/peft_utils.py; its `set_scale(adapter, 1.0)` is meant for the scale
#   that the adapter came with.
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
from peft import LoraConfig
from transformers import CLIPTextConfig, CLIPTextModel

torch.manual_seed(0)
pipeline = StableDiffusionPipeline(
    vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=8),
    text_encoder=CLIPTextModel(
        CLIPTextConfig(
            vocab_size=8,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            bos_token_id=0,
            eos_token_id=1,
        )
    ),
    tokenizer=None,
    unet=UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=32,
        norm_num_groups=8,
    ),
    scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
    safety_checker=None,
    feature_extractor=None,
    requires_safety_checker=False,
)
pipeline.set_progress_bar_config(disable=True)
prompt_embeds = torch.randn(1, 8, 32)


def image(**options):
    return pipeline(
        prompt_embeds=prompt_embeds,
        guidance_scale=1.0,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        **options,
    ).images


def apart(one, other):
    return round(float((one - other).abs().max()), 4)


none = image()
projections = ["to_q", "to_k", "to_v"]
pipeline.unet.add_adapter(LoraConfig(r=4, lora_alpha=4, init_lora_weights=False, target_modules=projections), "style")
full = image()
pipeline.set_adapters("style", 0.5)
half = image()
image(cross_attention_kwargs={"scale": 0.25})
after_a_quarter = image()
baseline = image(cross_attention_kwargs={"scale": 0.0})
after_zero = image()
print("weight 0.5 and weight 1 differ by", apart(half, full))
print("after a call with scale 0.25: from weight 0.5", apart(after_a_quarter, half))
print("after a call with scale 0: from weight 0.5", apart(after_zero, half), "from weight 1", apart(after_zero, full))
assert apart(half, full) > 0.05, "the LoRA does too little to tell its weights apart"
assert apart(baseline, none) == 0, "scale 0 is not the model without the LoRA"
assert apart(after_a_quarter, half) < 1e-3, "scale 0.25 outlasts its call"
assert apart(after_zero, half) > 0.05, "the weight that was set is back after scale 0"
assert apart(after_zero, full) == 0, "the weight after scale 0 is not 1"
PYTHON
