#!/usr/bin/env bash
# A LoRA saved by diffusers and loaded again is weaker by rank / alpha.
#
# Package: diffusers 0.42.1 with peft 0.21.0.
# Guess: `save_lora_weights` followed by `load_lora_weights` gives the LoRA back.
# Found: the file holds the two matrices of each layer and no alpha unless `unet_lora_adapter_metadata` is handed
#   over as well, and the loader takes a missing alpha for the rank. A LoRA of rank 4 trained with alpha 16 acts
#   with a factor of 1 instead of 4 after the round trip. With the metadata it comes back as it was.
# Matters: the LoRA of a subject or style looks under-trained, or an edit with it too weak, and the usual answer, a
#   LoRA scale above 1, then differs from file to file. A comparison of the model in memory with the one from disk
#   compares two models.
# Source: `StableDiffusionLoraLoaderMixin.save_lora_weights` in diffusers/loaders/lora_pipeline.py and `get_peft_kwargs`
#   in diffusers/utils/peft_utils.py.
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
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict


def pipeline():
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
    return StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=8),
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def query_weight(unet):
    """Return one layer's weight with its LoRA added, by what the layer does to the identity."""
    layer = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_q
    with torch.no_grad():
        return layer(torch.eye(layer.in_features)).T


plain = query_weight(pipeline().unet)
trained = pipeline().unet
config = LoraConfig(r=4, lora_alpha=16, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v"])
trained.add_adapter(config)
layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(trained))
delta = query_weight(trained) - plain


def factor(**metadata):
    """Return what is left of the LoRA after saving and loading."""
    StableDiffusionPipeline.save_lora_weights("saved", unet_lora_layers=layers, **metadata)
    again = pipeline()
    again.load_lora_weights("saved")
    loaded = query_weight(again.unet) - plain
    ratio = float((loaded * delta).sum() / (delta * delta).sum())
    assert (loaded - ratio * delta).abs().max() < 1e-4, "more than the strength has changed"
    return round(ratio, 4)


found = factor(), factor(unet_lora_adapter_metadata={"r": 4, "lora_alpha": 16, "target_modules": ["to_q", "to_k", "to_v"]})
print("LoRA of rank 4 and alpha 16, what is left of it: without metadata", found[0], "with metadata", found[1])
assert found == (0.25, 1.0), found
PYTHON
