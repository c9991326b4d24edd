"""Parts of tiny random pipelines that several UNet families share."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel


def look_at_the_prompt(unet: UNet2DConditionModel, factor: float = 2.0) -> UNet2DConditionModel:
    """Enlarge the attention's weights: at its usual initialisation a random UNet hardly sees its prompt."""
    projections = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")
    added = ("add_k_proj.weight", "add_v_proj.weight")
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if name.endswith((*projections, *added)):
                parameter.mul_(factor)
    return unet


def tiny_vae(levels: int = 2) -> AutoencoderKL:
    """Return a random autoencoder of 2^(levels - 1) pixels per latent."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8,) * levels,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=16 * 2 ** (levels - 1),
    )


def ddim(**config: object) -> DDIMScheduler:
    """Return Stable Diffusion's DDIM scheduler."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        **config,
    )
