"""ColorCtrl's two parts: the source's values outside of an area, and weights on the scores of words. Against
loops by hand on formed maps, as branches of a tree, and what is refused."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from experiments.datasets.pair import Pair
from experiments.planning.make_plan import plan_of
from experiments.planning.model_facts import ModelFacts
from experiments.planning.plan import NamedMethod
from experiments.planning.sweep import make_sweep
from p2p import (
    Calls,
    EditRequest,
    FixedSeed,
    Group,
    Model,
    Projections,
    PromptToPrompt,
    StableDiffusion,
)
from p2p.alignment import word_column
from p2p.attention.injection import BatchInjection, LayerAttention
from p2p.attention.joint import inject_scores
from p2p.attention.source_bank import SourceBank
from p2p.engine import check_edits, tree_latents
from p2p.local_blend import smoothed
from p2p.value_area import ValueArea
from tests.p2p.inversion.flow_models import (
    GUIDANCE,
    ROUNDED,
    SAMPLING,
    SOURCE,
    STEPS,
    SWAP,
    levels,
    rows,
    tiny_flow_model,
    velocity_of,
)
from tests.p2p.inversion.flow_models import guided as with_guidance
from tests.p2p.taped_processors import ALL, EVERY, family_of, taped

pytestmark = pytest.mark.xdist_group("color_edits")

WORDS = ("cat", "dog")
STRUCTURE: dict[str, Any] = {"cross_replace_steps": 0, "self_replace_steps": 0.6, "local_blend": False}


@dataclass
class ColorTape:
    """Keeps the source's maps and values, edits the target's, and sums the source's maps of a word."""

    family: str
    layers: Sequence[str]  # in which the target is edited
    read: Sequence[str]  # whose maps are summed
    word: Tensor  # (tokens,) 1 at the source's word
    factors: Tensor  # (tokens,) of the target's words' scores
    method: PromptToPrompt
    heads: tuple[list[int], list[int]]  # edited, read
    windows: tuple[range, range]  # of maps, of values
    does: str = "nothing"
    step: int = 0
    pixels: int = 0
    sums: Tensor | float = 0.0
    nearest: float = 1.0
    kept: dict[str, Tensor] = field(default_factory=dict)
    seen: list[Tensor] = field(default_factory=list)

    def __call__(self, layer: str, image: list[Tensor], text: list[Tensor]) -> None:
        """Keep the image's values, or put the source's outside of the area."""
        self.pixels = image[0].shape[2]
        if self.does == "keep":
            self.kept[f"{layer} values"] = image[2]
        if self.does == "take" and layer in self.layers and self.step in self.windows[1]:
            outside, heads = ~self.inside(), self.heads[0]
            values = image[2].clone()
            for head in heads:
                values[:, head, outside] = self.kept[f"{layer} values"][:, head, outside]
            image[2] = values

    def inside(self) -> Tensor:
        if self.step == 0:
            return torch.ones(self.pixels, dtype=torch.bool)
        assert isinstance(self.sums, Tensor)
        side = round(self.pixels**0.5)
        maps = smoothed(self.sums.reshape(1, 1, side, side), self.method.blend_smoothing).flatten()
        share = (maps - maps.min()) / (maps.max() - maps.min()) - self.method.value_threshold
        self.nearest = min(self.nearest, float(share.abs().min()))
        assert (share > 0).any()
        assert (share <= 0).any()
        return share > 0

    def maps(self, layer: str, scores: Tensor) -> Tensor:
        """Return the maps (rows, heads, queries, keys) of one prompt."""
        image, text = slice(0, self.pixels), slice(self.pixels, None)
        if self.family not in ("sd3", "z_image"):  # text before the image
            tokens = scores.shape[-1] - self.pixels
            image, text = slice(tokens, None), slice(0, tokens)
        edited, read = self.heads
        if self.does == "take" and layer in self.layers:
            for head in edited:
                block = scores[:, head, text, image]  # what text queries read of the image
                block *= self.factors[: block.shape[1], None]
        maps = scores.softmax(-1)
        if self.does == "keep":
            self.kept[layer] = maps
            if layer in self.read:
                words = maps[:, read, image, text]
                self.seen.append((words * self.word[: words.shape[-1]]).sum(-1).mean((0, 1)))
        if self.does == "take" and layer in self.layers and self.step in self.windows[0]:
            for head in edited:
                maps[:, head, image, image] = self.kept[layer][:, head, image, image]
        return maps

    def end_of_step(self) -> None:
        self.sums = self.sums + torch.stack(self.seen).mean(0)
        self.step, self.seen = self.step + 1, []


@torch.no_grad()
def by_hand(model: Model, tape: ColorTape) -> tuple[Tensor, Tensor]:
    """Return the latents of source and target after all steps."""
    velocity = velocity_of(model)
    source = target = model.draw_noise([torch.Generator().manual_seed(3)])
    with taped(model, tape):

        def guided(latents: Tensor, sigma: float, prompt: str, does: str) -> Tensor:
            tape.does = does
            if model.guidance_embedded:
                return velocity(latents, sigma, prompt, GUIDANCE)
            conditional = velocity(latents, sigma, prompt, 1)
            tape.does = "nothing"
            return with_guidance(model.pipeline, velocity(latents, sigma, "", 1), conditional, GUIDANCE)

        for here, there in pairwise(levels(model)):
            of_source = guided(source, here, SOURCE, "keep")
            of_target = guided(target, here, SWAP, "take")
            source, target = source + (there - here) * of_source, target + (there - here) * of_target
            tape.end_of_step()
    return source[0], target[0]


def group(model: Model, methods: Sequence[Any], blend_words: Any = WORDS) -> Group:
    request = EditRequest(SOURCE, SWAP, blend_words=blend_words)
    return Group(SOURCE, 3, tuple(one.trajectory(request, model.tokenizers, STEPS) for one in methods))


@pytest.fixture(scope="module", params=ALL)
def model(request: pytest.FixtureRequest) -> Model:
    return tiny_flow_model(request.param)


WHOLE = PromptToPrompt(**STRUCTURE, value_replace_steps=1, value_threshold=0.3)
PARTS = PromptToPrompt(
    **STRUCTURE, value_replace_steps=(0.4, 0.8), value_threshold=0.3, weights_on="scores",
    weights={"dog": 12.0, "bench": -6.0}, heads=[1], blend_heads=0, blend_smoothing=0.7,
)  # fmt: skip


def placed(family: str, parts: bool) -> tuple[PromptToPrompt, list[str], list[str]]:
    """Return an edit, the layers where it edits and those that it reads.

    The first block of Stable Diffusion 3 has a second attention, whose maps the loop leaves alone. What text
    reads in a model's last block goes nowhere, so that weights on scores show in an earlier one.
    """
    attention = "attention" if family == "z_image" else "attn"
    every = [f"{layer}.{attention}.processor" for layer in EVERY[family]]
    if not parts:
        apart = replace(WHOLE, blocks="double-1..2"), every[1:], every
        return apart if family == "sd3" else (WHOLE, every, every)
    here, stream = (
        0 if family in ("qwen_image", "z_image") else 1,
        "single" if family == "z_image" else "double",
    )
    method = replace(PARTS, blocks=f"{stream}-{here}", blend_layers=f"{stream}-{1 - here}")
    return method, [every[here]], [every[1 - here]]


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        *(pytest.param(family, True, id=f"{family}-parts") for family in ALL),
        *(pytest.param(family, False, id=f"{family}-whole") for family in ("qwen_image", "flux2_klein")),
        *(
            pytest.param(family, False, id=f"{family}-whole", marks=pytest.mark.slow)
            for family in ("sd3", "flux", "z_image")
        ),
    ],
    indirect=["model"],
)
def test_it_equals_a_loop_on_formed_maps(model: Model, parts: bool) -> None:
    method, layers, read = placed(family_of(model), parts)
    factors = torch.ones_like(word_column(SWAP, None, model.tokenizers), dtype=torch.float64)
    for word, factor in (PARTS.weights if parts else {}).items():  # type: ignore[union-attr]
        factors[word_column(SWAP, word, model.tokenizers) > 0] = factor
    tape = ColorTape(
        family_of(model),
        layers,
        read,
        word_column(SOURCE, "cat", model.tokenizers),
        factors,
        method,
        ([1], [0]) if parts else ([0, 1], [0, 1]),
        (range(3), range(2, 4) if parts else range(STEPS)),
    )
    expected = torch.stack(by_hand(model, tape))
    assert tape.nearest > 1e-6
    less = replace(method, value_replace_steps=0), replace(method, weights=None, weights_on="probabilities")
    max_batch = rows(model) if parts else 64  # the source in an earlier call than its edit, or in the same
    one = group(model, [method, *less, FixedSeed()])
    ours = tree_latents(model, [one], SAMPLING, Calls(max_batch))
    assert_close(torch.stack([ours[0, 0], ours[0, 1]]), expected, rtol=0, atol=ROUNDED)
    others = [ours[0, branch] for branch in (2, *((3,) if parts else ()), 4)]
    assert min(float((ours[0, 1] - other).abs().max()) for other in others) > 10 * ROUNDED


def test_what_changes_nothing_is_the_same_edit(model: Model) -> None:
    plain = PromptToPrompt(**STRUCTURE)
    same = [
        replace(plain, value_replace_steps=(0.4, 0.4)),
        replace(plain, weights_on="scores"),
        replace(plain, weights={"dog": 1.0}, weights_on="scores"),
        replace(plain, value_threshold=0.7),
    ]
    one = group(model, [plain, *same])
    assert len({edit.digest() for edit in one.edits}) == 1
    [without] = group(model, [WHOLE], None).edits
    assert without.digest() == one.edits[0].digest()
    different = [WHOLE, replace(WHOLE, value_threshold=0.4), replace(WHOLE, value_replace_steps=0.8)]
    different += [replace(WHOLE, **{key: 0}) for key in ("heads", "blend_heads")]
    different += [replace(WHOLE, blend_smoothing=0.5), replace(WHOLE, blend_layers=ALL[family_of(model)][0])]
    different += [replace(plain, weights={"dog": factor}, weights_on="scores") for factor in (2, 3)]
    different += [plain]
    assert len({edit.digest() for edit in group(model, different).edits}) == len(different)


def test_a_word_that_is_none_has_no_area(model: Model) -> None:
    """All values are the source's, but at the first step."""
    method = PromptToPrompt(tau=1, value_replace_steps=1, local_blend=False)
    one = group(model, [method, Projections((0.2, 1.0), share="values"), FixedSeed()], (None, "dog"))
    found = tree_latents(model, [one], SAMPLING)
    assert_close(found[0, 1], found[0, 2], rtol=0, atol=ROUNDED)
    assert (found[0, 1] - found[0, 3]).abs().max() > 10 * ROUNDED


def test_scores_are_as_exact_in_bfloat16_as_attention_is() -> None:
    generator, none = torch.Generator().manual_seed(0), torch.empty(0, dtype=torch.int64)
    drawn = [torch.randn(1, 2, 600, 64, generator=generator, dtype=torch.float64) for _ in range(3)]
    query, key, value = (one.bfloat16() for one in (drawn[0] * 4, *drawn[1:]))
    rows, tokens, factors = torch.tensor([0, 0]), torch.tensor([1, 3]), torch.tensor([1.0, 1.3])
    injection = BatchInjection(
        *[none] * 10, (), none, none, False, 0, SourceBank(), scores=(rows, tokens, factors)
    )  # fmt: skip
    attention = LayerAttention("layer", query, key, value, 0.125)
    text, image = slice(0, 8), slice(8, None)
    words = attention._replace(query=query[:, :, text]).attend()
    found = inject_scores(attention, words.clone(), text, image, injection)
    scores = query[:, :, text].double() @ key.double().mT * 0.125
    scores[:, :, 3, image] *= factors[1]
    exact = scores.softmax(-1) @ value.double()
    error = (found.double() - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert error.max() < 0.004  # bfloat16 has 8 bits


def test_an_area_is_above_a_share_of_the_way_to_the_peak() -> None:
    words = torch.zeros(4, 1)
    maps = torch.tensor([[[2.0, 3.0], [2.5, 12.0]]])
    assert ValueArea(words, 0.1).inside(maps).tolist() == [False, False, False, True]  # 3 is 0.1 of the way
    assert ValueArea(words, 0.04).inside(maps).tolist() == [False, True, True, True]
    assert not ValueArea(words, 0.0).inside(torch.ones(1, 2, 2)).any()


VALUES = PromptToPrompt(tau=0.2, value_replace_steps=0.5)
SCORES = PromptToPrompt(tau=0.2, weights={"dog": 2.0}, weights_on="scores")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (VALUES, "value_replace_steps: takes the image's values from a softmax over text and image"),
        (replace(VALUES, blocks="up"), "value_replace_steps: takes the image's values from a softmax"),
        (
            SCORES,
            "weights_on: scores weights what a word's queries read of the image, and in this model text",
        ),
    ],
)
def test_models_whose_text_has_no_queries_refuse_it(
    calm_model: StableDiffusion, method: PromptToPrompt, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as refused:
        tree_latents(calm_model, [group(calm_model, [method])], SAMPLING)
    with pytest.raises(ValueError, match=f"^{message}"):  # before anything is computed
        check_edits(calm_model, group(calm_model, [method]).edits)
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith("Stable Diffusion 3 and 3.5, Flux, Flux.2, Qwen-Image and Z-Image")
    facts = ModelFacts("identity", calm_model.tokenizers, STEPS, layer_groups=True)
    pair = Pair("one", SOURCE, SWAP, blend_words=WORDS)
    named = [NamedMethod("p2p", method, {})]
    with pytest.raises(ValueError, match=f"p2p: {message}"):
        plan_of(make_sweep([pair], [0], named, facts, SAMPLING))
    if method.blocks is None:
        known = replace(facts, layer_groups=False, joint_blocks={"double": 2})
        assert plan_of(make_sweep([pair], [0], named, known, SAMPLING)).images == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights_on": "maps"}, "weights_on: 'maps' is no such thing, allowed are probabilities and scores"),
        ({"weights_on": None}, "weights_on: None is no such thing"),
        ({"value_replace_steps": 2}, "value_replace_steps must be a number in"),
        ({"value_replace_steps": [0.6, 0.2]}, "value_replace_steps must have start <= end"),
        ({"value_threshold": 1}, r"value_threshold: 1 is not in \[0, 1\)"),
        ({"value_threshold": "high"}, "value_threshold: 'high' is not a finite number"),
    ],
)
def test_what_is_out_of_range_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        PromptToPrompt(**settings)


def test_a_share_that_comes_to_no_step_is_an_error(calm_model: StableDiffusion) -> None:
    message = "value_replace_steps: 0.1 of 5 steps is no step, allowed are 0 and windows of 1/5 or more"
    with pytest.raises(ValueError, match=message):
        group(calm_model, [replace(WHOLE, value_replace_steps=0.1)], None)
