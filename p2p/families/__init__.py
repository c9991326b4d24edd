"""One small adapter per family of models; `FAMILIES` finds it by the name of diffusers' pipeline class."""

from p2p.families.deepfloyd import DeepFloyd, DeepFloydUpscaler
from p2p.families.flux import Flux
from p2p.families.latent_diffusion import LatentDiffusion
from p2p.families.model import Model
from p2p.families.pixart import PixArtAlpha, PixArtSigma
from p2p.families.stable_diffusion import StableDiffusion
from p2p.families.stable_diffusion_3 import StableDiffusion3
from p2p.families.stable_diffusion_xl import StableDiffusionXL

FAMILIES: dict[str, type[Model]] = {
    family.pipeline_class.__name__: family
    for family in (
        StableDiffusion,
        StableDiffusionXL,
        StableDiffusion3,
        LatentDiffusion,
        DeepFloyd,
        DeepFloydUpscaler,
        PixArtAlpha,
        PixArtSigma,
        Flux,
    )
}

__all__ = [
    "FAMILIES",
    "DeepFloyd",
    "DeepFloydUpscaler",
    "Flux",
    "LatentDiffusion",
    "Model",
    "PixArtAlpha",
    "PixArtSigma",
    "StableDiffusion",
    "StableDiffusion3",
    "StableDiffusionXL",
]
