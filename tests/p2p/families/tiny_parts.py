"""Parts that the families' tiny pipelines share."""

import torch
from diffusers import AutoencoderKL


def tiny_vae(latent_channels: int = 4, shift: float | None = None) -> AutoencoderKL:
    """Return a random autoencoder of two pixels per latent and direction."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=32,
        latent_channels=latent_channels,
        shift_factor=shift,
    )


@torch.no_grad()
def heed_text(transformer: torch.nn.Module, factor: float = 3.0) -> None:
    """Sharpen the attention: at its usual initialisation a random transformer hardly looks at its prompt."""
    for name, parameter in transformer.named_parameters():
        if "attn" in name and name.endswith("weight") and parameter.ndim == 2:
            parameter.mul_(factor)


@torch.no_grad()
def heed_context(layers: torch.nn.Module, factor: float = 4.0) -> None:
    """Sharpen a language model: at its initialisation of 0.02 its tokens hardly know of each other."""
    for parameter in layers.parameters():
        parameter.mul_(factor if parameter.ndim == 2 else 1)
