"""Pictures as a world's autoencoder sees them."""

import hashlib

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm

from experiments.embedded.train_vae import to_model
from experiments.embedded.training import mixed_precision
from experiments.embedded.worlds.contract import Scenes, World


@torch.no_grad()
def encode_pictures(vae: AutoencoderKL, images: np.ndarray, bf16: bool) -> Tensor:
    """Return scaled latent means (n, 4, 16, 16) float16, on the autoencoder's device, of uint8 pictures."""
    parts = []
    for part in torch.from_numpy(images).split(250):
        with mixed_precision(vae.device.type, bf16):
            latents = vae.encode(to_model(part.to(vae.device))).latent_dist.mode()
        parts.append((latents.float() * vae.config.scaling_factor).half())
    return torch.cat(parts)


def encode_latents(world: World, vae: AutoencoderKL, scenes: Scenes, bf16: bool) -> Tensor:
    """Return scaled latent means (n, 4, 16, 16) fp16, from a file if they were computed before."""
    weights = (world.weights / "pipeline" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    file = world.checkpoints / f"latents-{hashlib.sha256(weights).hexdigest()[:8]}.npy"
    if file.exists() and len(np.load(file, mmap_mode="r")) == len(scenes.scenes):
        return torch.from_numpy(np.load(file))
    parts = tqdm(np.array_split(scenes.images, len(scenes.scenes) // 250 + 1), "encoding", mininterval=10)
    latents = torch.cat([encode_pictures(vae, part, bf16).cpu() for part in parts])
    np.save(file, latents.numpy())
    return latents
