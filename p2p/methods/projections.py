"""The source's projections of the image in joint attention, for a share of the steps: queries and keys are
Prompt-to-Prompt by projections, values RF-Solver's and FireFlow's feature sharing.

Shin et al. 2025, "Exploring Multimodal Diffusion Transformers for Enhanced Prompt-based Image Editing", ICCV
2025, Alg. 1; defaults are as in the authors' code, SNU-VGILab/exploring-mmdit, without its local blend. Wang
et al. 2025, "Taming Rectified Flow for Inversion and Editing", Sec. 3.3; Deng et al. 2025, "FireFlow".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from p2p.alignment import Tokenizers, check_equal_padding, check_prompt
from p2p.attention.heads import HeadNames, Heads
from p2p.attention.joint_blocks import Blocks
from p2p.attention.single_layers import LayerInjection, shared_tensors
from p2p.methods.windows import Steps, window
from p2p.numbers import whole_steps
from p2p.trajectory import EditRequest, Injection, Trajectory


@dataclass(frozen=True)
class Projections:
    """Give the target the source's projections of the image, queries and keys, in chosen blocks.

    With q, k and v of [image, text], of the target where nothing else is said,

        softmax([q_image_source, q_text] [k_image_source, k_text]^T) [v_image, v_text]

    so that no words are aligned, and text queries read the source's image keys too. `share` says what is the
    source's in place of queries and keys: any of "queries", "keys", "values", which are the image's, and
    "text_values", which are the source prompt's, token by token.

    `replace_steps` is the share of the steps, from the first, or a window (start, end) of shares, rounded as
    `int(T * share)`; 0 is the fixed seed. `blocks` are such as ["double-0..7", "single-32..37"], counted from
    0 in each stream; None: all. Unconditional rows keep their own, as does a second attention that a block
    has of the image alone (Stable Diffusion 3.5 medium), and as do heads other than `heads`, such as
    [0, "3..7"] or "no-2" (None: all). Weights and blend words have nothing to act on.

    The code of Shin et al. numbers the blocks of Stable Diffusion 3.5 medium by attention layers, the second
    ones among them, and those of Flux through both streams: its 19 is single-0 here. A share that comes to no
    step is an error here, there the fixed seed.

    RF-Solver's edits (wangjiangshan0725/RF-Solver-Edit) share ["values", "text_values"] in "single-20..37" of
    Flux, FireFlow's (HolmesShuan/FireFlow-Fast-Inversion-of-Rectified-Flow-for-Image-Semantic-Editing) in
    "single-0..37". Their code keeps the values of the way up to the noise. Here they are those of the source
    on its way down, beside the edit and at the same noise level: on the way up RF-Solver evaluates a step's
    first velocity at the step's other end, and FireFlow's first evaluation of the first step down finds none.
    """

    replace_steps: Steps = 0.2
    blocks: str | Sequence[str] | None = None
    share: str | Sequence[str] = ("queries", "keys")
    heads: HeadNames = None
    name: ClassVar[str] = "projections"
    uses_mask: ClassVar[bool] = False

    def __post_init__(self) -> None:
        window("replace_steps", self.replace_steps)
        self._taken()

    def _taken(self) -> LayerInjection:
        blocks, heads = Blocks.named(self.blocks), Heads.named("heads", self.heads)
        return LayerInjection(projections=blocks, shared=shared_tensors(self.share), heads=heads)

    def trajectory(
        self, request: EditRequest, tokenizers: Tokenizers, num_inference_steps: int
    ) -> Trajectory:
        """Return denoising of the target prompt that takes from the source.

        Raises ValueError for a share above 0 that comes to no step.
        """
        check_prompt(request.target_prompt, tokenizers)
        steps = num_inference_steps
        shares = window("replace_steps", self.replace_steps)
        start, end = (whole_steps(share, steps) for share in shares)
        if start == end and shares[0] < shares[1]:
            raise ValueError(
                f"replace_steps: {self.replace_steps!r} of {steps} steps is no step, allowed are 0 and "
                f"windows of 1/{steps} or more"
            )
        if start < end:
            check_equal_padding(request.source_prompt, request.target_prompt, tokenizers)
        injection = Injection(None, False, layers=self._taken())
        rows = range(steps + 1)
        return Trajectory(
            request.target_prompt, tuple(injection if start <= row < end else None for row in rows)
        )
