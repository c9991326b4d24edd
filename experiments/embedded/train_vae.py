"""Train a world's autoencoder on its rendered scenes.

Small batches: the number of steps is what counts (LOG.md). Run `make train-vae`.
"""

import argparse

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss

from experiments.embedded.shards import load_training_scenes
from experiments.embedded.training import (
    batches,
    cosine,
    hardware,
    mixed_precision,
    precision,
    run_steps,
    write_card,
)
from experiments.embedded.worlds import start
from experiments.embedded.worlds.contract import SIDE, Scenes, World


def build_vae(channels: tuple[int, int, int]) -> AutoencoderKL:
    """Return the untrained autoencoder: f = 4, 64x64x3 to 16x16x4; `channels` from fine to coarse."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIDE,
        mid_block_add_attention=False,
    )


def reconstruction_loss(output: Tensor, images: Tensor) -> Tensor:
    """Return L1 + 2 MSE + 0.5 L1 of finite differences, for images in [-1, 1]."""
    slopes = [l1_loss(output.diff(dim=d), images.diff(dim=d)) for d in (2, 3)]
    return l1_loss(output, images) + 2 * mse_loss(output, images) + 0.5 * (slopes[0] + slopes[1])


def to_model(images: Tensor) -> Tensor:
    """Turn (N, 64, 64, 3) uint8 into (N, 3, 64, 64) float in [-1, 1], channels last."""
    return (images.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def psnr(vae: AutoencoderKL, scenes: Scenes) -> float:
    """Return the mean PSNR (dB) of 8-bit reconstructions from the latent mean."""
    values = []
    for images in torch.from_numpy(scenes.images).split(100):
        latents = vae.encode(to_model(images.to(vae.device))).latent_dist.mode()
        output = ((vae.decode(latents).sample.clamp(-1, 1) + 1) * 127.5).round().cpu()
        mse = (output - images.permute(0, 3, 1, 2).float()).square().mean((1, 2, 3)) / 255**2
        values.append(-10 * mse.log10())
    return float(torch.cat(values).mean())


def main(world: World, steps: int = 5500, batch_size: int = 10, shards: int = 4) -> None:
    """Train, measure on held-out scenes, save fp16 weights and a model card."""
    torch.manual_seed(0)
    vae = build_vae(world.sizes.vae).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    images = torch.from_numpy(load_training_scenes(world, shards).images)

    def loss_of_step(step: int) -> dict[str, Tensor]:
        batch = to_model(images[batches(len(images), batch_size, step, seed=1)])
        with mixed_precision():
            posterior = vae.encode(batch).latent_dist
            noise = torch.Generator().manual_seed(step)
            output = vae.decode(posterior.sample(noise)).sample
        return {
            "image": reconstruction_loss(output.float(), batch),
            "kl": 2e-4 * posterior.kl().mean() / 1024,
        }

    seconds = run_steps(world.checkpoints / "vae.pt", steps, vae, optimizer, cosine, loss_of_step)
    with torch.no_grad():
        latents = torch.cat([vae.encode(to_model(b)).latent_dist.mode() for b in images[:2000].split(100)])
    vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 4))
    quality = psnr(vae, world.draw(1000, (7, 0), True))
    folder = world.weights / "pipeline" / "vae"
    vae.half().save_pretrained(folder)
    write_card(
        folder,
        f"Autoencoder of {world.title}",
        {
            "data": f"{len(images)} rendered scenes",
            "recipe": f"{steps} steps of {batch_size}, AdamW 2e-3 cosine, {precision()}",
            "time": f"{seconds / 60:.0f} min on {hardware()}",
            "quality": f"PSNR {quality:.2f} dB on 1,000 held-out scenes",
        },
    )
    print(f"PSNR {quality:.2f} dB on held-out scenes, scaling factor {vae.config.scaling_factor}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5500)
    parser.add_argument("--shards", type=int, default=4, help="of 10,000 scenes each")
    start(main, parser)
