"""Edits on formed attention maps, for transformers: slow on purpose and independent of the engine.

diffusers' own pipeline makes source and target in one call; processors that a test installs form every
probability map, hand it to a `Controller` and multiply what comes back with the values. Maps are edited as
Hertz et al. 2022 write them, token block by token block; alignment and word positions come from
`p2p.alignment`, which has tests of its own.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d
from torch.utils._python_dispatch import TorchDispatchMode

from p2p import EditRequest, Group, Model, PromptToPrompt, Sampling, generate
from p2p.alignment import token_limit, word_indices
from p2p.engine import tree_latents
from p2p.families.model import stack_rows
from p2p.operators import alignment_matrix
from p2p.trajectory import Trajectory
from tests.p2p.families.yamls import from_yaml


@dataclass
class Edit:
    """One edit in the paper's terms. Windows are shares (start, end), words map to weights."""

    source: str
    target: str
    operator: str
    cross: dict[str, tuple[float, float]]
    itself: tuple[float, float]
    weights: dict[str, float] = field(default_factory=dict)
    blend: tuple[str, str] | None = None
    threshold: float = 0.3

    def trajectory(self, tokenizers: Sequence, steps: int) -> Trajectory:
        """Return the same edit in the engine's terms."""
        method = PromptToPrompt(
            operator=self.operator,
            cross_replace_steps=self.cross,
            self_replace_steps=self.itself,
            weights=self.weights,
            blend_threshold=self.threshold,
        )
        request = EditRequest(self.source, self.target, blend_words=self.blend)
        return method.trajectory(request, tokenizers, steps)


EDITS = {  # every operator, with self-attention from none to always, per-word windows, weights and LocalBlend
    "replace": Edit(
        "a cat on a bench", "a chinchilla on a bench", "replace", {"default_": (0.0, 0.8)}, (0.0, 0.5)
    ),
    "replace, per word": Edit(
        "a chinchilla and a cat", "a dog and a hat", "replace",
        {"default_": (0.0, 1.0), "dog": (0.25, 0.75), "hat": (0.0, 0.5)}, (0.25, 1.0), {"dog": 2.0},
    ),
    "refine": Edit(
        "a cat on a bench", "a cat with a red hat on a bench", "refine", {"default_": (0.0, 0.75)}, (0.0, 0.5)
    ),
    "refine, per word, blended": Edit(
        "a red cat with a hat", "a cat with a hat on a bench", "refine",
        {"default_": (0.0, 1.0), "bench": (0.0, 0.3)}, (0.0, 0.0), {"hat": 3.0}, ("cat", "cat"), 0.8,
    ),
    "reweight": Edit(
        "a red cat", "a red cat", "replace", {"default_": (0.0, 1.0)}, (0.0, 1.0), {"red": -2.0}
    ),
    "replace, blended": Edit(
        "a red cat on a bench", "a red dog on a bench", "replace", {"default_": (0.0, 0.6)}, (0.0, 0.4),
        blend=("cat", "dog"), threshold=0.8,
    ),
}  # fmt: skip


class Controller:
    """What is done to the maps of a source and a target, and to their latents at the end of a step."""

    def __init__(self, edit: Edit, tokenizers: Sequence, steps: int, side: int) -> None:
        self.edit, self.tokenizers, self.steps, self.side, self.step = edit, tokenizers, steps, side, 0
        self.kept: list[Tensor] = []  # this step's text maps, (2, heads, pixels, tokens)
        self.sums: Tensor | float = 0.0
        self.nearest = 1.0  # how near a blend value came to its threshold

    def text(self, maps: Tensor) -> Tensor:
        """Edit the maps (2, heads, pixels, tokens) of text; the first row is the source's."""
        edited, begin = [], 0
        for tokenizer in self.tokenizers:
            block = maps[..., begin : begin + token_limit(tokenizer)]
            edited.append(self._block(block[0], block[1], tokenizer))
            begin += token_limit(tokenizer)
        assert begin == maps.shape[-1]
        maps = torch.stack([maps[0], torch.cat(edited, -1)])
        self.kept.append(maps)
        return maps

    def _block(self, source: Tensor, target: Tensor, tokenizer) -> Tensor:
        e = self.edit
        matrix, aligned = alignment_matrix(e.operator, e.source, e.target, tokenizer)
        edited = source @ matrix.to(source.dtype) * aligned + target * (1 - aligned)
        for word, weight in e.weights.items():
            edited[..., word_indices(e.target, word, tokenizer)] *= weight
        gate = torch.zeros(token_limit(tokenizer), dtype=torch.bool)
        for word, (start, end) in e.cross.items():
            tokens = slice(None) if word == "default_" else word_indices(e.target, word, tokenizer)
            gate[tokens] = int(start * (self.steps + 1)) <= self.step < int(end * (self.steps + 1))
        return torch.where(gate, edited, target)

    def image(self, maps: Tensor) -> Tensor:
        """Edit the maps (2, heads, pixels, pixels) of the image."""
        start, end = (int(self.steps * share) for share in self.edit.itself)
        return maps[:1].repeat(2, 1, 1, 1) if start <= self.step < end else maps

    def end_of_step(self, latents: Tensor) -> Tensor:
        """Return the latents (2, channels, height, width) after LocalBlend."""
        self.step += 1
        self.sums = self.sums + torch.stack(self.kept).mean((0, 2))  # (2, pixels, tokens)
        self.kept = []
        if self.edit.blend is None or self.step <= int(0.2 * self.steps):
            return latents
        masks = []
        for row, (prompt, word) in enumerate(
            zip((self.edit.source, self.edit.target), self.edit.blend, strict=True)
        ):
            begin, area = 0, torch.zeros(1, 1, self.side, self.side, dtype=torch.float64)
            for tokenizer in self.tokenizers:
                for token in word_indices(prompt, word, tokenizer):
                    area += self.sums[row, :, begin + token].reshape(area.shape)
                begin += token_limit(tokenizer)
            area = interpolate(max_pool2d(area, 3, 1, 1), size=latents.shape[2:])
            area = area / area.max() - self.edit.threshold
            self.nearest = min(self.nearest, float(area.abs().min()))
            masks.append(area > 0)
        return torch.where(masks[0] | masks[1], latents, latents[:1])


def edit_joint(controller: Controller, maps: Tensor, text: slice) -> Tensor:
    """Edit maps (2, heads, queries, keys) over image and text: the image's queries, each kind of key."""
    maps = maps.clone()
    image = torch.ones(maps.shape[-1], dtype=torch.bool)
    image[text] = False
    rows = maps[:, :, image]
    rows[..., text] = controller.text(rows[..., text])
    rows[..., image] = controller.image(rows[..., image])
    maps[:, :, image] = rows
    return maps


@contextmanager
def installed(model: Model, processor: Any) -> Iterator[None]:
    """Let a processor attend in every layer in which the engine injects."""
    names = (name.removesuffix(".processor") for name in model.attention_layers)
    layers = [model.denoiser.get_submodule(name) for name in names]
    original = [layer.processor for layer in layers]
    for layer in layers:
        layer.set_processor(processor)
    try:
        yield
    finally:
        for layer, present in zip(layers, original, strict=True):
            layer.set_processor(present)


Run = Callable[[Model, list[str], int, "Controller | None"], Tensor]
"""Return diffusers' own latents of some prompts, each from the seed's noise; a controller blends them."""


def formed_edits(model: Model, run: Run, processor: Callable[[Controller], Any], steps: int) -> list[Tensor]:
    """Return for every edit of `EDITS` the latents (2, ...) of source and target, made on formed maps.

    An edit that hardly moves the target would show nothing, so that is an error.
    """
    results = []
    for n, edit in enumerate(EDITS.values()):
        controller = Controller(edit, model.tokenizers, steps, model.blend_side)
        with installed(model, processor(controller)):
            formed = run(model, [edit.source, edit.target], n % 2, controller)
        assert controller.step == steps
        assert controller.nearest > 1e-9, "a blend value lies on its threshold"
        plain = run(model, [edit.source, edit.target], n % 2, None)
        torch.testing.assert_close(formed[0], plain[0], rtol=0, atol=1e-4)
        assert (formed[1] - plain[1]).abs().max() > 1e-2
        results.append(formed)
    return results


def assert_engine_equals(
    formed: Sequence[Tensor], model: Model, sampling: Sampling, tolerance: float
) -> None:
    """Groups of every kind share a call of any size; a source may be in an earlier call than its target."""
    assert tolerance <= 1e-5  # a thousandth of what every edit changes at least
    steps = sampling.num_inference_steps
    groups = [
        Group(edit.source, n % 2, (edit.trajectory(model.tokenizers, steps),))
        for n, edit in enumerate(EDITS.values())
    ]
    ours = tree_latents(model, groups, sampling)
    for g, expected in enumerate(formed):
        both = torch.stack([ours[g, 0], ours[g, 1]])
        torch.testing.assert_close(both, expected, rtol=0, atol=tolerance)


class Sizes(TorchDispatchMode):
    """Notes the largest tensor that any operation makes, inside the attention kernels' callers too."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


def assert_no_map_is_formed(
    model: Model, processor: Callable[[Controller], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edited call makes no tensor as large as the maps of one head; formed maps do, so it would show."""
    edit = EDITS["refine, per word, blended"]
    # Of one step, in which a share of 0.3 would be none.
    edit = replace(edit, cross={"default_": (0.0, 1.0), "bench": (0.0, 0.5)}, itself=(0.0, 1.0))
    pixels, predict, sizes = model.pixels(model.blend_side), model.predict, Sizes()

    def watched(*args: Any) -> Tensor:
        with sizes:
            return predict(*args)

    monkeypatch.setattr(model, "predict", watched)
    group = Group(edit.source, 0, (edit.trajectory(model.tokenizers, 1),))
    latents = tree_latents(model, [group], Sampling(1, 1.0))
    assert (latents[0, 0] - latents[0, 1]).abs().max() > 1e-3
    assert 0 < sizes.largest < pixels**2
    controller = Controller(edit, model.tokenizers, 1, model.blend_side)
    with installed(model, processor(controller)):
        rows = torch.zeros(2, *model.latent_shape, dtype=model.dtype)
        text = stack_rows([model.encode_prompt(prompt) for prompt in (edit.source, edit.target)])
        with torch.no_grad():
            watched(rows, torch.tensor(500.0), text)
    assert sizes.largest >= pixels**2


def assert_equal_prompts_give_the_source(model: Model, steps: int, guidance: float) -> None:
    """Cross- and self-attention injected throughout, nothing to align: the source's image, bit for bit."""
    prompt = "a cat on a bench"
    methods = [PromptToPrompt(operator=o, tau=0, self_replace_steps=1.0) for o in ("replace", "refine")]
    request = EditRequest(prompt, prompt)
    edits = tuple(method.trajectory(request, model.tokenizers, steps) for method in methods)
    [edited] = generate(model, [Group(prompt, 0, edits)], Sampling(steps, guidance))
    for image in edited.images:
        assert torch.equal(image, edited.source)


def assert_a_source_is_the_same_in_any_call(
    model: Model, sampling: Sampling, target: str, longer: str
) -> Tensor:
    """Return a source's latents, which are the same bits alone, and beside its edit and a longer prompt."""
    source = "a cat on a bench"
    edit = PromptToPrompt(tau=0.5).trajectory(
        EditRequest(source, target), model.tokenizers, sampling.num_inference_steps
    )
    alone = tree_latents(model, [Group(source, 3, ())], sampling)
    together = tree_latents(model, [Group(source, 3, (edit,)), Group(longer, 4, ())], sampling)
    assert torch.equal(alone[0, 0], together[0, 0])
    assert (together[0, 0] - together[0, 1]).abs().max() > 1e-2
    return alone[0, 0]


def load(name: str, folder: Path, *overrides: str) -> Model:
    """Return the model of a YAML file of conf/model, from a folder and in double precision."""
    spec = from_yaml(name, f"path={folder}", "dtype=float64", *overrides)
    model = spec.load()
    assert list(map(token_limit, spec.load_tokenizers())) == list(map(token_limit, model.tokenizers))
    return model
