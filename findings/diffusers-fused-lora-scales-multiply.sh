#!/usr/bin/env bash
# The scale of `fuse_lora` outlives `unfuse_lora`: fused with 0.5 each time, a LoRA has 0.5, 0.25, 0.125.
#
# Package: diffusers 0.42.1 with peft 0.21.0.
# Guess: `unfuse_lora` reverses `fuse_lora`, as it says; a LoRA that is fused with 0.5 again acts with 0.5 again.
# Found: the model's own weights come back, but the LoRA keeps the scale, and each further one is multiplied to it. A
#   sweep over 1, 0.8, 0.6, 0.4 acts with 1, 0.8, 0.48, 0.192. Unfused, the LoRA acts with the last product rather than
#   with its weight. A scale of 0 leaves it dead for good. `set_adapters` with a weight before each fusing resets it.
# Matters: a curve over LoRA scales bends by itself, and depends on the order of its points; two runs in one process
#   with one scale differ. An unfused model is no longer the one that was fused.
# Source: `_fuse_lora_apply` and `_unfuse_lora_apply` of `PeftAdapterMixin` in diffusers/loaders/peft.py.
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

torch.manual_seed(0)
pipeline = StableDiffusionPipeline(
    vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=8),
    text_encoder=None,
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
projections = ["to_q", "to_k", "to_v"]


def query_weight():
    """Return one layer's weight with what is added to it, by what the layer does to the identity."""
    layer = pipeline.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_q
    with torch.no_grad():
        return layer(torch.eye(layer.in_features)).T


plain = query_weight()
pipeline.unet.add_adapter(LoraConfig(r=4, lora_alpha=4, init_lora_weights=False, target_modules=projections), "style")
delta = query_weight() - plain


def factor():
    """Return how strongly the LoRA acts."""
    added = query_weight() - plain
    ratio = float((added * delta).sum() / (delta * delta).sum())
    assert (added - ratio * delta).abs().max() < 1e-4, "more than the strength has changed"
    return round(ratio, 3)


def fused(scale):
    pipeline.fuse_lora(components=["unet"], lora_scale=scale)
    strength = factor()
    pipeline.unfuse_lora(components=["unet"])
    return strength


def reset():
    pipeline.set_adapters("style", 1.0)


sweep = [fused(scale) for scale in (1.0, 0.8, 0.6, 0.4)]
print("fused with 1, 0.8, 0.6, 0.4:", sweep, "and unfused after the last", factor())
assert sweep == [1.0, 0.8, 0.48, 0.192] and factor() == 0.192, "scales no longer multiply"
reset()
assert [fused(0.5) for _ in range(3)] == [0.5, 0.25, 0.125]
reset()
assert fused(0.0) == 0 and fused(1.0) == 0 and factor() == 0, "the LoRA is alive after a scale of 0"
set_before = []
for scale in (1.0, 0.8, 0.6, 0.4):
    reset()
    set_before.append(fused(scale))
print("with set_adapters before each:", set_before)
assert set_before == [1.0, 0.8, 0.6, 0.4], "set_adapters does not reset the scale"
PYTHON
