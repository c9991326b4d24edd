"""One small adapter per family of models; `family_of` finds it by the name of diffusers' pipeline class.

A family's file is imported when it is asked for: diffusers' pipelines take seconds to import.
"""

from importlib import import_module
from typing import Any

FAMILIES = {
    "StableDiffusionPipeline": "stable_diffusion.StableDiffusion",
    "StableDiffusionXLPipeline": "stable_diffusion_xl.StableDiffusionXL",
    "StableDiffusion3Pipeline": "stable_diffusion_3.StableDiffusion3",
    "LDMTextToImagePipeline": "latent_diffusion.LatentDiffusion",
    "IFPipeline": "deepfloyd.DeepFloyd",
    "IFSuperResolutionPipeline": "deepfloyd.DeepFloydUpscaler",
    "PixArtAlphaPipeline": "pixart.PixArtAlpha",
    "PixArtSigmaPipeline": "pixart.PixArtSigma",
    "FluxPipeline": "flux.Flux",
    "Flux2Pipeline": "flux2.Flux2",
    "Flux2KleinPipeline": "flux2.Flux2Klein",
    "QwenImagePipeline": "qwen_image.QwenImage",
    "ZImagePipeline": "z_image.ZImage",
}
"""The file and the class of this folder, by diffusers' pipeline class."""


def family_of(pipeline: str) -> Any:
    """Return the adapter, a child of `p2p.families.model.Model`, of one of FAMILIES, or of an import path.

    The import path is that of an adapter of your own, `my_package.MyFamily`. Raises ValueError where there is
    none.
    """
    if pipeline in FAMILIES:
        file, _, name = FAMILIES[pipeline].partition(".")
        return getattr(import_module(f"p2p.families.{file}"), name)
    module, _, name = str(pipeline).rpartition(".")
    if not module:
        raise ValueError(
            f"pipeline: {pipeline!r} is not one of {', '.join(FAMILIES)}, nor the import path of an adapter"
        )
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"pipeline: {pipeline!r} cannot be imported ({error})") from error
