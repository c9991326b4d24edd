"""Plug-and-Play: keep the source's layout while the target prompt fills it anew.

Tumanyan et al., "Plug-and-Play Diffusion Features for Text-Driven Image-to-Image Translation", CVPR 2023;
defaults are as in the authors' code, MichalGeyer/plug-and-play and MichalGeyer/pnp-diffusers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from p2p.alignment import Tokenizers, check_prompt
from p2p.attention.single_layers import LayerInjection, Number, check_number
from p2p.trajectory import EditRequest, Injection, Trajectory


@dataclass(frozen=True)
class PlugAndPlay:
    """Inject the source's self-attention maps, `softmax(Q_s K_s^T) V_t`, and its features, in the decoder.

    The maps for the first share `attention_steps` of the steps, in decoder blocks from `attention_block` on.
    The features for the first share `feature_steps`, at `feature_block`: the output of its residual block
    before the skip is added. Blocks are counted from 0; "auto" is the second with self-attention, which is
    the published 4 of 12 in Stable Diffusion 1.x. Unconditional rows take from the source's unconditional
    row. Weights and blend words have nothing to act on.
    """

    attention_steps: float = 0.5
    feature_steps: float = 0.8
    attention_block: Number = "auto"
    feature_block: Number = "auto"
    name: ClassVar[str] = "plug_and_play"
    uses_mask: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("attention_steps", "feature_steps"):
            share = getattr(self, name)
            number = isinstance(share, (int, float)) and not isinstance(share, bool)
            if not number or not 0 <= share <= 1:
                raise ValueError(f"{name}: {share!r} is not a number in [0, 1]")
        for name in ("attention_block", "feature_block"):
            check_number(name, getattr(self, name))

    def trajectory(
        self, request: EditRequest, tokenizers: Tokenizers, num_inference_steps: int
    ) -> Trajectory:
        """Return denoising of the target prompt that takes from the source for `int(T * share)` steps.

        Raises ValueError for a share above 0 that comes to no step.
        """
        check_prompt(request.target_prompt, tokenizers)
        for name in ("attention_steps", "feature_steps"):
            share = getattr(self, name)
            if share and not int(num_inference_steps * share):
                raise ValueError(
                    f"{name}: {share} of {num_inference_steps} steps is no step, allowed are 0 (none) and "
                    f"1/{num_inference_steps} or more"
                )
        attention, features = (
            int(num_inference_steps * share) for share in (self.attention_steps, self.feature_steps)
        )
        injections: list[Injection | None] = []
        for step in range(num_inference_steps + 1):
            layers = LayerInjection(
                queries_keys=self.attention_block if step < attention else None,
                features=self.feature_block if step < features else None,
            )
            injections.append(
                Injection(None, False, layers=layers) if step < max(attention, features) else None
            )
        return Trajectory(request.target_prompt, tuple(injections))
