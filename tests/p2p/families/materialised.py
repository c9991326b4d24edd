"""Edits by formed probability maps, for every family: diffusers' own pipeline call of source and target.

Its attention processors are replaced by ones that form each map and hand it to the reference's controller
(naive.py); its scheduler's step is followed by the controller's LocalBlend. Nothing of the engine is used.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from p2p import EditRequest, FixedSeed, Group, Model, PromptToPrompt, Sampling, SDEdit, generate
from p2p.alignment import ExpandingTokenizer
from p2p.engine import derived_seed, tree_latents
from tests.p2p.naive import Controller, NaiveProcessor, Settings

STEPS = 4
SAMPLING = Sampling(STEPS, guidance_scale=4.0)
SOURCE, SWAP = "a cat sitting on a bench", "a chinchilla sitting on a bench"
ADD = "a cat with a hat sitting on a bench"
TOLERANCE = 1e-8  # of latents of size 1, in double precision

EDITS: dict[str, dict[str, Any]] = {
    "replace": {"target": SWAP, "operator": "replace", "blend": ("cat", "chinchilla")},
    "refine": {"target": ADD, "operator": "refine", "blend": ("cat", "hat"), "weights": {"hat": 3.0}},
    "reweight": {"target": SOURCE, "operator": "replace", "weights": {"cat": -2.0, "bench": 4.0}},
    "late window": {"target": SWAP, "operator": "refine", "cross": (0.5, 1.0), "itself": (0.0, 0.0)},
}

Call = Callable[[list[str], list[torch.Generator]], object]
"""The pipeline's own call with prompts and one generator each, STEPS steps and the guidance of SAMPLING."""


@contextmanager
def recorded_steps(pipeline: Any, after: Callable[[Tensor], Tensor] = lambda latents: latents) -> Iterator:
    """Let `after` change the latents of every step of the pipeline's scheduler, and keep them in a list."""
    step, kept = pipeline.scheduler.step, []

    @functools.wraps(step)
    def recorded(*args: Any, **kwargs: Any) -> tuple[Tensor]:
        kwargs["return_dict"] = False
        kept.append(after(step(*args, **kwargs)[0]))
        return Result(kept[-1])

    pipeline.scheduler.step = recorded
    try:
        yield kept
    finally:
        del pipeline.scheduler.step


class Result(tuple):
    """A scheduler's result in both of the forms that pipelines ask for."""

    def __new__(cls, latents: Tensor) -> "Result":
        return super().__new__(cls, (latents,))

    @property
    def prev_sample(self) -> Tensor:
        return self[0]


def plain_latents(pipeline: Any, call: Call, prompt: str, seed: int) -> Tensor:
    """Return the last latents (1, ...) of the pipeline's own run."""
    with recorded_steps(pipeline) as kept:
        call([prompt], [torch.Generator().manual_seed(seed)])
    assert len(kept) == STEPS
    return kept[-1]


def edited_latents(
    model: Model, call: Call, settings: Settings, seed: int, processor: type = NaiveProcessor
) -> tuple[Tensor, Controller]:
    """Return the last latents of source and target by the controller's edit, and the controller."""
    pipeline = model.pipeline
    [used] = model.tokenizers
    bare = used.tokenizer if isinstance(used, ExpandingTokenizer) else used
    controller = Controller(settings, bare, STEPS)
    original = dict(pipeline.unet.attn_processors)
    pipeline.unet.set_attn_processor({name: processor(controller) for name in original})
    try:
        with recorded_steps(pipeline, controller.end_of_step) as kept:
            call([settings.source, settings.target], [torch.Generator().manual_seed(seed) for _ in range(2)])
    finally:
        pipeline.unet.set_attn_processor(original)
    assert controller.step == STEPS
    return kept[-1], controller


def check_plain(model: Model, call: Call, image: Callable[[str, int], Tensor], seed: int = 3) -> None:
    """Compare source and tau = 1 with the pipeline's own runs: latents, and images up to 8-bit rounding."""
    edits = [(SWAP, FixedSeed()), (SWAP, PromptToPrompt(tau=1)), (SWAP, PromptToPrompt(tau=0))]
    group = _group(model, edits, seed)
    latents = tree_latents(model, [group], SAMPLING)
    for branch, prompt in enumerate([SOURCE, SWAP, SWAP]):
        wanted = plain_latents(model.pipeline, call, prompt, seed)[0]
        torch.testing.assert_close(latents[0, branch], wanted, rtol=0, atol=TOLERANCE)
    assert (latents[0, 3] - latents[0, 1]).abs().max() > 1000 * TOLERANCE
    [edited] = generate(model, [group], SAMPLING)
    for ours, prompt in ((edited.source, SOURCE), (edited.images[1], SWAP)):
        plain = (image(prompt, seed).float() * 255).round() / 255
        torch.testing.assert_close(ours, plain, rtol=0, atol=1.01 / 255)  # a last digit may turn a level
        assert (ours != plain).float().mean() < 0.01


def check_edit(
    model: Model, call: Call, name: str, processor: type = NaiveProcessor, tolerance: float = TOLERANCE
) -> None:
    """Compare an edit of EDITS with its materialised form, in one call a step or in several."""
    edit = {"cross": (0.0, 0.8), "itself": (0.0, 0.5), "weights": {}, "blend": None, **EDITS[name]}
    settings = Settings(
        SOURCE, edit["target"], edit["operator"], "fixed", {"default_": edit["cross"]}, edit["itself"],
        self_limit=model.pixels(model.self_max_side), weights=edit["weights"], blend=edit["blend"],
        threshold=(0.6, 0.6), blend_side=model.blend_side,
    )  # fmt: skip
    method = PromptToPrompt(
        edit["operator"], cross_replace_steps=edit["cross"], self_replace_steps=edit["itself"],
        weights=edit["weights"], blend_threshold=0.6,
    )  # fmt: skip
    request = EditRequest(SOURCE, edit["target"], blend_words=edit["blend"])
    trajectory = method.trajectory(request, model.tokenizers, STEPS)
    wanted, controller = edited_latents(model, call, settings, 5, processor)
    assert controller.nearest > 1e-9, "a blend value lies on its threshold"
    max_batch = 2 if name == "replace" else 64  # 2: the source's queries and keys come from the bank
    sampling = Sampling(STEPS, SAMPLING.guidance_scale, max_batch=max_batch)
    ours = tree_latents(model, [Group(SOURCE, 5, (trajectory,))], sampling)
    torch.testing.assert_close(ours[0, 0], wanted[0], rtol=0, atol=tolerance)
    torch.testing.assert_close(ours[0, 1], wanted[1], rtol=0, atol=tolerance)
    own = plain_latents(model.pipeline, call, edit["target"], 5)
    assert (own[0] - wanted[1]).abs().max() > 1000 * tolerance, "nothing was edited"


def check_sdedit(
    model: Model, start: list[Tensor], img2img: Callable[[Tensor, torch.Generator], Tensor]
) -> None:
    """Compare SDEdit's half of the steps with diffusers' own, which begins at the latents in `start`."""
    trajectory = SDEdit(0.5).trajectory(EditRequest(SOURCE, SWAP), model.tokenizers, STEPS)
    [edited] = generate(model, [Group(SOURCE, 5, (trajectory,))], SAMPLING)
    scheduler = model.new_scheduler(STEPS)
    generator = torch.Generator().manual_seed(derived_seed(5))
    noise = model.draw_noise([generator])
    encoded = model.encode(edited.source[None])
    assert encoded.shape == (1, *model.latent_shape)
    start[0] = scheduler.add_noise(encoded, noise, scheduler.timesteps[STEPS // 2 : STEPS // 2 + 1])
    plain = (img2img(edited.source[None], generator)[0].float() * 255).round() / 255
    torch.testing.assert_close(edited.images[0], plain, rtol=0, atol=1.01 / 255)
    assert (edited.images[0] != plain).float().mean() < 0.01
    assert (edited.images[0] - edited.source).abs().max() > 10 / 255


class NoMap(TorchDispatchMode):
    """Fails where a softmax of as many rows as a layer has pixels is formed; fused attention has none."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.pixels = {model.pixels(side) for side in model.attention_sides()}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if "softmax" in func.name():
            assert output.shape[-2] not in self.pixels, f"{func.name()} formed a map {tuple(output.shape)}"
        return output


def check_no_map(model: Model, call: Call, processor: type = NaiveProcessor) -> None:
    """Edit a group under NoMap, which does notice the materialised form."""
    trajectory = PromptToPrompt(tau=0, self_replace_steps=1.0).trajectory(
        EditRequest(SOURCE, ADD), model.tokenizers, STEPS
    )
    with NoMap(model):
        tree_latents(model, [Group(SOURCE, 0, (trajectory,))], SAMPLING)
    settings = Settings(SOURCE, ADD, "refine", "fixed", {"default_": (0.0, 1.0)}, (0.0, 1.0), 64)
    with NoMap(model), pytest.raises(AssertionError, match="formed a map"):
        edited_latents(model, call, settings, 0, processor)


def _group(model: Model, edits: list[tuple[str, Any]], seed: int) -> Group:
    trajectories = (m.trajectory(EditRequest(SOURCE, t), model.tokenizers, STEPS) for t, m in edits)
    return Group(SOURCE, seed, tuple(trajectories))
