"""One small adapter per family of models; `FAMILIES` finds it by the name of diffusers' pipeline class."""

from p2p.families.model import Model
from p2p.families.pixart import PixArtAlpha, PixArtSigma
from p2p.families.stable_diffusion import StableDiffusion

FAMILIES: dict[str, type[Model]] = {
    family.pipeline_class.__name__: family for family in (StableDiffusion, PixArtAlpha, PixArtSigma)
}

__all__ = ["FAMILIES", "Model", "PixArtAlpha", "PixArtSigma", "StableDiffusion"]
