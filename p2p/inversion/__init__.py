"""Inversions of real images, one file per method: from an encoded image and its prompt to a `SourcePath`."""

from p2p.inversion.ddim import DDIM
from p2p.inversion.direct import Direct
from p2p.inversion.edit_friendly import EditFriendly
from p2p.inversion.inversion import Inversion
from p2p.inversion.negative_prompt import NegativePrompt
from p2p.inversion.null_text import NullText
from p2p.inversion.proximal import Proximal

__all__ = ["DDIM", "Direct", "EditFriendly", "Inversion", "NegativePrompt", "NullText", "Proximal"]
