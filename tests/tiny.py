"""A tiny random Stable-Diffusion pipeline of the real diffusers classes: 32-pixel images, 16x16 latents,
CLIP's tokenizer.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from p2p import ModelSpec, StableDiffusion
from p2p.loading.tokenizer_files import clip_tokenizer


def common_words_tokenizer() -> CLIPTokenizer:
    """Return CLIP's tokenizer with its first 4,000 merges of 48,894: it is read and copied in a tenth of the
    time, and rarer words have more tokens.
    """
    merges = json.loads(clip_tokenizer().backend_tokenizer.to_str())["model"]["merges"][:4000]
    letters = sorted(clip_tokenizer().get_vocab().items(), key=lambda item: item[1])[:512]
    pieces = [*(piece for piece, _ in letters), *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocab, merges=[tuple(merge) for merge in merges], model_max_length=77)


def save_tiny_pipeline(folder: Path, tokenizer: CLIPTokenizer | None = None) -> Path:
    """Build the pipeline from a fixed seed, with CLIP's own tokenizer or another, and save it to a folder."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=32,
        norm_num_groups=8,
    )
    with torch.no_grad():  # at its usual initialisation a random UNet hardly looks at its prompt
        for name, parameter in unet.named_parameters():
            if "attn" in name and name.endswith(
                ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")
            ):
                parameter.mul_(4)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=32,
    )
    tokenizer = tokenizer or clip_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def load_tiny_model(folder: Path) -> StableDiffusion:
    """Load it in double precision, so that what should be equal is; attention at 16x16 and 8x8."""
    return ModelSpec(
        "tiny", str(folder), self_max_side=16, blend_side=16, dtype="float64", device="cpu"
    ).load()
