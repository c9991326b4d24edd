"""An adapter whose process ends at one word, as at a fault of a driver, which no `except` sees."""

import os

from p2p.conditioning import Conditioning
from p2p.families.stable_diffusion import StableDiffusion

WORD = "fire"


class Fatal(StableDiffusion):
    """Stable Diffusion that cannot stand a word."""

    def encode_prompt(self, prompt: str, negative: bool = False) -> Conditioning:
        if WORD in prompt:
            os._exit(1)
        return super().encode_prompt(prompt, negative)
