"""Prompt-to-Prompt editing of diffusers pipelines (Hertz et al., ICLR 2023): `edit(model, source_prompt,
edits, seed)`.
"""

from p2p.baselines import FixedSeed, SDEdit
from p2p.denoise import Calls, Sampling
from p2p.edits import EditRequest, PromptToPrompt
from p2p.engine import Edited, Group, edit, generate
from p2p.families import Model, StableDiffusion
from p2p.inversion import DDIM, Direct, EditFriendly, Inversion, NegativePrompt, NullText, Proximal
from p2p.loading import ModelSpec

__all__ = [
    "DDIM",
    "Calls",
    "Direct",
    "EditFriendly",
    "EditRequest",
    "Edited",
    "FixedSeed",
    "Group",
    "Inversion",
    "Model",
    "ModelSpec",
    "NegativePrompt",
    "NullText",
    "PromptToPrompt",
    "Proximal",
    "SDEdit",
    "Sampling",
    "StableDiffusion",
    "edit",
    "generate",
]
