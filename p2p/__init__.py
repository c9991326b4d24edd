"""Prompt-to-Prompt editing of diffusers pipelines (Hertz et al., ICLR 2023): `edit(model, source_prompt,
edits, seed)`.
"""

from p2p.engine import Edited, Group, edit, generate
from p2p.families import (
    DeepFloyd,
    DeepFloydUpscaler,
    Flux,
    LatentDiffusion,
    Model,
    PixArtAlpha,
    PixArtSigma,
    StableDiffusion,
    StableDiffusion3,
    StableDiffusionXL,
)
from p2p.heat_maps import HeatMaps, WordHeat, heat_maps
from p2p.inversion import DDIM, Direct, EditFriendly, Inversion, NegativePrompt, NullText, Proximal
from p2p.loading.model_spec import ModelSpec
from p2p.loading.pipeline_spec import Pipelines
from p2p.methods.baselines import FixedSeed, SDEdit
from p2p.methods.external import External
from p2p.methods.masactrl import MasaCtrl
from p2p.methods.plug_and_play import PlugAndPlay
from p2p.methods.prompt_to_prompt import EditRequest, PromptToPrompt
from p2p.sampling import Calls, Sampling

__all__ = [
    "DDIM",
    "Calls",
    "DeepFloyd",
    "DeepFloydUpscaler",
    "Direct",
    "EditFriendly",
    "EditRequest",
    "Edited",
    "External",
    "FixedSeed",
    "Flux",
    "Group",
    "HeatMaps",
    "Inversion",
    "LatentDiffusion",
    "MasaCtrl",
    "Model",
    "ModelSpec",
    "NegativePrompt",
    "NullText",
    "Pipelines",
    "PixArtAlpha",
    "PixArtSigma",
    "PlugAndPlay",
    "PromptToPrompt",
    "Proximal",
    "SDEdit",
    "Sampling",
    "StableDiffusion",
    "StableDiffusion3",
    "StableDiffusionXL",
    "WordHeat",
    "edit",
    "generate",
    "heat_maps",
]
