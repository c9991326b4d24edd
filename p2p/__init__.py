"""Prompt-to-Prompt editing of diffusers pipelines (Hertz et al., ICLR 2023): `edit(model, source_prompt,
edits, seed)`.
"""

from p2p.baselines import FixedSeed, SDEdit
from p2p.denoise import Calls, Sampling
from p2p.edits import EditRequest, PromptToPrompt
from p2p.engine import Edited, Group, edit, generate
from p2p.families import Model, StableDiffusion
from p2p.loading import ModelSpec
from p2p.maps import HeatMaps, WordHeat, heat_maps

__all__ = [
    "Calls",
    "EditRequest",
    "Edited",
    "FixedSeed",
    "Group",
    "HeatMaps",
    "Model",
    "ModelSpec",
    "PromptToPrompt",
    "SDEdit",
    "Sampling",
    "StableDiffusion",
    "WordHeat",
    "edit",
    "generate",
    "heat_maps",
]
