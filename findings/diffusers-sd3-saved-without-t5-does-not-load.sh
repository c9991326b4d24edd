#!/usr/bin/env bash
# A Stable Diffusion 3 pipeline without its T5 is saved without a word, and cannot be loaded from what was saved.
#
# Package: diffusers 0.42.1, transformers 5.23.0.
# Guess: `text_encoder_3=None` is documented for saving memory, and `save_pretrained` writes `[null, null]` for it into
#   model_index.json, so `from_pretrained` of that folder gives the pipeline back without its T5.
# Found: it raises ValueError: the T5 and its tokenizer are expected, though the index says that there is none. Image
#   encoder and feature extractor, null in the same index, are not missed. Both have to be given as None again; one of
#   the two is not enough.
# Matters: a small Stable Diffusion 3, and one that was saved without T5 to spare 9 GB, needs its loader to know what
#   it was saved without.
# Source: `from_pretrained` in diffusers/pipelines/pipeline_utils.py and `_optional_components` in
#   diffusers/pipelines/stable_diffusion_3/pipeline_stable_diffusion_3.py.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile \
    diffusers==0.42.1 transformers==5.23.0 torch==2.14.1 numpy==2.4.6
cd "$folder"
export HF_HUB_OFFLINE=1
venv/bin/python - <<'PYTHON'
import json

from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

words = {"a</w>": 0, "<|startoftext|>": 1, "<|endoftext|>": 2}
encoder = CLIPTextModelWithProjection(
    CLIPTextConfig(
        vocab_size=3, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=1,
        projection_dim=8, max_position_embeddings=8,
    )
)  # fmt: skip
tokenizer = CLIPTokenizer(vocab=words, merges=[])
transformer = SD3Transformer2DModel(
    sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
    num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=16,
    pos_embed_max_size=8,
)  # fmt: skip
pipeline = StableDiffusion3Pipeline(
    transformer=transformer,
    scheduler=FlowMatchEulerDiscreteScheduler(),
    vae=AutoencoderKL(latent_channels=4, block_out_channels=(8,), norm_num_groups=4, shift_factor=0.0),
    text_encoder=encoder,
    tokenizer=tokenizer,
    text_encoder_2=encoder,
    tokenizer_2=tokenizer,
    text_encoder_3=None,
    tokenizer_3=None,
)
pipeline.save_pretrained("saved")
index = json.load(open("saved/model_index.json"))
print("text_encoder_3 in the index:", index["text_encoder_3"])
assert index["text_encoder_3"] == index["tokenizer_3"] == index["image_encoder"] == [None, None]

for given in ({}, {"text_encoder_3": None}, {"text_encoder_3": None, "tokenizer_3": None}):
    try:
        StableDiffusion3Pipeline.from_pretrained("saved", **given)
        outcome = "loads"
    except ValueError as error:
        outcome = "ValueError"
        assert "text_encoder_3" in str(error) or "tokenizer_3" in str(error)
    print(f"given {list(given) or 'nothing'}: {outcome}")
    assert outcome == ("loads" if len(given) == 2 else "ValueError"), "it is loaded otherwise now"
PYTHON
