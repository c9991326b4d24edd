"""Train the embedded pipeline's denoiser and text encoder on the latents of rendered scenes.

The text encoder is context-free (its self-attention is zeroed and frozen): in a jointly trained causal
encoder a word's meaning moves into the words after it, and the word's own attention map is inverted. Run
`make train-diffusion`.
"""

import argparse
import hashlib

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from experiments.embedded.scenes import Scenes, load_training_scenes
from experiments.embedded.tokenizer import save_tokenizer
from experiments.embedded.train_vae import to_model
from experiments.embedded.training import (
    CHECKPOINTS,
    WEIGHTS,
    Ema,
    batches,
    cosine,
    earlier,
    mixed_precision,
    precision,
    run_steps,
    write_card,
)
from experiments.embedded.world import OBJECTS

CAPTION_DROPOUT = 0.1
THING_WEIGHT = (
    3  # of the error where a thing is, over that of the place: things are small and hold the detail
)
ATTENTION_WEIGHT = 0.03  # of the grounding loss, beside a denoising loss of about 0.1


def build_unet() -> UNet2DConditionModel:
    """Return the untrained denoiser: 6.1 M parameters, cross-attention at 16x16 and 8x8."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(64, 160),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=128,
        norm_num_groups=16,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return the untrained text encoder, each token blind to the others."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        projection_dim=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = CLIPTextModel(config)
    for name, module in encoder.named_modules():
        if name.endswith("self_attn.out_proj"):
            for parameter in module.parameters():
                nn.init.zeros_(parameter).requires_grad_(False)
    return encoder


def build_scheduler() -> DDIMScheduler:
    """Return the noise schedule; beta_end 0.018 as 0.012 leaves a readable mean in latents this small."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.018,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def skip_attention(encoder: CLIPTextModel) -> None:
    """Do not compute the attention of a context-free encoder while it is trained: it adds exactly nothing."""
    for name, module in encoder.named_modules():
        if name.endswith("self_attn"):
            module.forward = lambda hidden_states, **_: (torch.zeros_like(hidden_states), None)


class RecordingProcessor(AttnProcessor):
    """Materialised attention that keeps its last probabilities; its CPU backward is faster than SDPA's."""

    probabilities: Tensor

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: object
    ) -> Tensor:
        """Attend from (batch, pixels, channels) to (batch, tokens, channels)."""
        query, key, value = (
            attn.to_q(hidden_states),
            attn.to_k(encoder_hidden_states),
            attn.to_v(encoder_hidden_states),
        )
        query, key, value = map(attn.head_to_batch_dim, (query, key, value))
        scores = torch.bmm(query, key.transpose(1, 2)) * attn.scale
        probabilities = scores.softmax(-1)
        self.probabilities = probabilities.unflatten(0, (-1, attn.heads)).mean(1)  # (batch, pixels, tokens)
        output = attn.batch_to_head_dim(torch.bmm(probabilities, value))
        return attn.to_out[1](attn.to_out[0](output))


def grounding_loss(probabilities: Tensor, tokens: Tensor, masks: Tensor) -> Tensor:
    """Return -log of the share of a thing's attention that lies inside its mask, per thing.

    TokenCompose's token loss (Eq. 3) is (1 - share)^2, whose gradient vanishes where a word looks at the
    wrong thing; the logarithm's does not.

    `probabilities` (batch, pixels, tokens); `tokens` (batch, things), 0 where there is no thing; `masks`
    (batch, things, 16, 16).
    """
    pixels = probabilities.shape[1]
    side = int(pixels**0.5)
    masks = nn.functional.adaptive_avg_pool2d(masks, side).flatten(2)  # (batch, things, pixels)
    columns = probabilities.float().transpose(1, 2).gather(1, tokens[..., None].expand(-1, -1, pixels))
    share = (columns * masks).sum(-1) / columns.sum(-1)
    return -share.clamp(min=1e-4).log() * (tokens > 0)


def encode_latents(vae: AutoencoderKL, scenes: Scenes) -> Tensor:
    """Return scaled latent means (n, 4, 16, 16) fp16, from a file if they were computed before."""
    weights = (WEIGHTS / "pipeline" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    file = CHECKPOINTS / f"latents-{hashlib.sha256(weights).hexdigest()[:8]}.npy"
    if file.exists() and len(np.load(file, mmap_mode="r")) == len(scenes.scenes):
        return torch.from_numpy(np.load(file))
    vae = vae.to(memory_format=torch.channels_last)
    parts = []
    with torch.no_grad(), mixed_precision():
        for images in tqdm(torch.from_numpy(scenes.images).split(250), desc="encoding", mininterval=10):
            latents = vae.encode(to_model(images)).latent_dist.mode()
            parts.append((latents.float() * vae.config.scaling_factor).half())
    np.save(file, torch.cat(parts).numpy())
    return torch.cat(parts)


def thing_tokens(scenes: Scenes, input_ids: Tensor, tokenizer: CLIPTokenizer) -> Tensor:
    """Return (n, 2): where the caption names each thing, 0 where there is none."""
    ids = {name: tokenizer.convert_tokens_to_ids(f"{name}</w>") for name in OBJECTS}
    tokens = torch.zeros(len(scenes.scenes), 2, dtype=torch.int64)
    rows = input_ids.tolist()
    for i, scene in enumerate(scenes.scenes):
        for j, thing in enumerate(scene.things):
            tokens[i, j] = rows[i].index(ids[thing.name])
    return tokens


def thing_masks(labels: Tensor, scenes: Scenes, index: Tensor) -> Tensor:
    """Return (batch, 2, 16, 16): the share of each latent cell that a thing covers."""
    wanted = torch.zeros(len(index), 2, 1, 1, dtype=torch.uint8)
    for row, i in enumerate(index.tolist()):
        for j, thing in enumerate(scenes.scenes[i].things):
            wanted[row, j] = 1 + OBJECTS.index(thing.name)
    covered = (labels[index][:, None] == wanted) & (wanted > 0)
    return nn.functional.avg_pool2d(covered.float(), 4)


def main(
    steps: int = 6_000,
    batch_size: int = 32,
    shards: int = 10,
    lr: float = 8e-4,
    further: bool = False,
    seed: int = 0,
) -> None:
    """Train, then save the whole pipeline in fp16 with a model card.

    `further` starts from the shipped weights and lets the learning rate decay from the first step on; give it
    a lower `lr`, and a `seed` of its own, else it sees the same batches again.
    """
    torch.manual_seed(0)
    folder = WEIGHTS / "pipeline"
    scenes = load_training_scenes(CHECKPOINTS / "scenes", shards)
    vae = AutoencoderKL.from_pretrained(folder / "vae", dtype=torch.float32)
    latents = encode_latents(vae, scenes)
    tokenizer = (CLIPTokenizer.from_pretrained if further else save_tokenizer)(folder / "tokenizer")
    captions = [scene.caption() for scene in scenes.scenes]
    encode = {"padding": "max_length", "return_tensors": "pt"}
    input_ids = tokenizer(captions, **encode).input_ids.to(torch.int32)
    empty = tokenizer("", **encode).input_ids.to(torch.int32)
    tokens = thing_tokens(scenes, input_ids, tokenizer)
    labels = torch.from_numpy(scenes.labels)

    unet, text_encoder = build_unet().to(memory_format=torch.channels_last), build_text_encoder(tokenizer)
    model = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
    if further:
        unet.load_state_dict(UNet2DConditionModel.from_pretrained(folder / "unet").state_dict())
        text_encoder.load_state_dict(CLIPTextModel.from_pretrained(folder / "text_encoder").state_dict())
    average = nn.ModuleDict({"unet": build_unet(), "text_encoder": build_text_encoder(tokenizer)})
    ema = Ema(model, average)
    skip_attention(text_encoder)
    cross = {name: RecordingProcessor() for name in unet.attn_processors if "attn2" in name}
    unet.set_attn_processor({name: cross.get(name, AttnProcessor()) for name in unet.attn_processors})
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=lr,
        betas=(0.9, 0.99),
    )
    scheduler = build_scheduler()
    alphas = scheduler.alphas_cumprod

    def loss_of_step(step: int) -> dict[str, Tensor]:
        rng = torch.Generator().manual_seed(10_000_019 * (seed + 1) + step)
        index = batches(len(latents), batch_size, step, seed=2 + seed)
        dropped = torch.rand(batch_size, generator=rng) < CAPTION_DROPOUT
        ids = torch.where(dropped[:, None], empty, input_ids[index])
        clean = latents[index].float()
        noise = torch.randn(clean.shape, generator=rng)
        stratum = (torch.arange(batch_size) + torch.rand(batch_size, generator=rng)) / batch_size
        timesteps = (stratum * 1000).long().clamp(max=999)
        noisy = scheduler.add_noise(clean, noise, timesteps).contiguous(memory_format=torch.channels_last)
        with mixed_precision():
            prediction = unet(noisy, timesteps, text_encoder(ids).last_hidden_state).sample
        snr = alphas[timesteps] / (1 - alphas[timesteps])
        weight = snr.clamp(max=5) / snr  # min-SNR (Hang et al. 2023), gamma 5
        told = (1 - timesteps / 1000)[:, None]
        pointed = (told / 0.4).clamp(max=1)  # in pure noise there is nothing to point at
        masks = thing_masks(labels, scenes, index)
        emphasis = 1 + THING_WEIGHT * told[..., None] * masks.sum(1)  # (batch, 16, 16)
        error = (prediction.float() - noise).square().mean(1) * emphasis
        denoising = (error.mean((1, 2)) * weight).mean()
        where = tokens[index] * ~dropped[:, None]
        grounding = [(grounding_loss(p.probabilities, where, masks) * pointed).mean() for p in cross.values()]
        return {"denoising": denoising, "grounding": ATTENTION_WEIGHT * torch.stack(grounding).mean()}

    def schedule(progress: float) -> float:
        return cosine(progress, flat=0.0 if further else 0.35, warm_up=0.03)

    seconds = run_steps("diffusion", steps, model, optimizer, schedule, loss_of_step, ema, save_every=100)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=average["text_encoder"],
        tokenizer=tokenizer,
        unet=average["unet"],
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    vae.register_to_config(_name_or_path="")  # else it says where this machine keeps the weights
    pipeline.to(torch.float16).save_pretrained(folder)
    write_card(
        folder,
        "Diffusion pipeline of the embedded world",
        {
            "data": f"{len(captions)} rendered, captioned scenes of 64x64 pixels",
            "sprites": "Noto Emoji image resources (Apache-2.0, see NOTICE)",
            "recipe": f"{steps} steps of {batch_size}, AdamW {lr:g} {'' if further else 'flat then '}cosine, "
            f"min-SNR 5, thing weight {THING_WEIGHT}, log grounding loss {ATTENTION_WEIGHT}, EMA 0.999, "
            f"{precision()}{earlier(folder, 'recipe') if further else ''}",
            "time": f"{seconds / 60:.0f} min on {torch.get_num_threads()} CPU threads"
            f"{earlier(folder, 'time') if further else ''}",
            "quality": "see QUALITY.md, written by `make quality`",
        },
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6_000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--shards", type=int, default=10, help="of 10,000 scenes each")
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--further", action="store_true", help="start from the shipped weights")
    parser.add_argument("--seed", type=int, default=0, help="of the order of scenes and the noise")
    main(**vars(parser.parse_args()))
