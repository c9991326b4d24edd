"""Inversions of real images, one file per method: from an encoded image and its prompt to a `SourcePath`."""

from p2p.inversion.ddim import DDIM
from p2p.inversion.direct import Direct
from p2p.inversion.edit_friendly import EditFriendly
from p2p.inversion.fireflow import FireFlow
from p2p.inversion.flow_inversion import FlowInversion
from p2p.inversion.inversion import Inversion
from p2p.inversion.negative_prompt import NegativePrompt
from p2p.inversion.noise_shifted import NoiseShifted
from p2p.inversion.null_text import NullText
from p2p.inversion.proximal import Proximal
from p2p.inversion.reverse_euler import ReverseEuler
from p2p.inversion.rf_inversion import RFInversion
from p2p.inversion.rf_solver import RFSolver
from p2p.inversion.uni_inv import UniInv
from p2p.inversion.virtual import Virtual

__all__ = [
    "DDIM",
    "Direct",
    "EditFriendly",
    "FireFlow",
    "FlowInversion",
    "Inversion",
    "NegativePrompt",
    "NoiseShifted",
    "NullText",
    "Proximal",
    "RFInversion",
    "RFSolver",
    "ReverseEuler",
    "UniInv",
    "Virtual",
]
