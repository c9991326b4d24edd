"""Maps injected and read in some heads alone: against formed maps, beside other edits; names, refusals."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import PixArtAlphaPipeline
from torch import Tensor
from torch.testing import assert_close

from p2p import (
    EditRequest,
    FixedSeed,
    Group,
    Model,
    Projections,
    PromptToPrompt,
    Sampling,
    StableDiffusion,
    StableDiffusionXL,
    heat_maps,
)
from p2p.attention.heads import Heads
from p2p.engine import check_edits, tree_latents
from p2p.families.flux import Flux
from p2p.families.pixart import PixArtAlpha
from tests.p2p import naive
from tests.p2p.families import formed, materialised, test_flux, test_pixart
from tests.p2p.families import test_stable_diffusion_xl as xl
from tests.p2p.families.test_stable_diffusion_xl import folder
from tests.p2p.inversion.flow_models import tiny_flow_model

__all__ = ["folder"]  # a fixture

pytestmark = pytest.mark.xdist_group("heads")

SOURCE, SWAP, ADD = "a cat on a bench", "a dog on a bench", "a cat with a red hat on a bench"
STEPS, SEED, GUIDANCE = 4, 1, 3.0
SAMPLING = Sampling(STEPS, GUIDANCE)
EXACT = 1e-8


class InHeads(naive.Controller):
    """Edits the maps of some heads, and keeps those of others (or the same) for LocalBlend."""

    edited: Sequence[int] = ()
    read: Sequence[int] = ()

    def __call__(self, maps: Tensor, is_cross: bool) -> Tensor:
        kept = len(self.kept)
        whole, changed = maps.clone(), super().__call__(maps, is_cross)
        whole[:, self.edited] = changed[:, self.edited]
        if len(self.kept) > kept:
            self.kept[-1] = whole[:, self.read]
        return whole


class JointInHeads(formed.Controller):
    """The same for transformers, whose maps of text and of the image it is given apart."""

    edited: Sequence[int] = ()
    read: Sequence[int] = ()

    def text(self, maps: Tensor) -> Tensor:
        whole, changed = maps.clone(), super().text(maps)
        whole[:, self.edited] = changed[:, self.edited]
        self.kept[-1] = whole[:, self.read]
        return whole

    def image(self, maps: Tensor) -> Tensor:
        whole = maps.clone()
        whole[:, self.edited] = super().image(maps)[:, self.edited]
        return whole


def latents(model: Model, edits: Sequence[tuple[str, Any]], max_batch: int = 64) -> list[Tensor]:
    made = tuple(
        method.trajectory(EditRequest(SOURCE, target, blend_words=("cat", "bench")), model.tokenizers, STEPS)
        for target, method in edits
    )
    found = tree_latents(model, [Group(SOURCE, SEED, made)], replace(SAMPLING, max_batch=max_batch))
    return [found[0, branch + 1] for branch in range(len(edits))]


@pytest.mark.parametrize(
    ("target", "operator", "heads", "edited", "blend_heads", "read"),
    [
        (SWAP, "replace", 0, [0], "1", [1]),
        pytest.param(SWAP, "replace", None, [0, 1], "no-0", [1], marks=pytest.mark.slow),
        pytest.param(ADD, "refine", "no-0", [1], None, [0, 1], marks=pytest.mark.slow),
        (ADD, "refine", ["0..1"], [0, 1], [0], [0]),
    ],
)
def test_in_heads_of_a_unet_an_edit_equals_formed_maps(
    calm_model: StableDiffusion,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    operator: str,
    heads: Any,
    edited: list[int],
    blend_heads: Any,
    read: list[int],
) -> None:
    monkeypatch.setattr(naive, "Controller", type("InThese", (InHeads,), {"edited": edited, "read": read}))
    weights = {"bench": 2.0}
    settings = naive.Settings(
        SOURCE, target, operator, "fixed", {"default_": (0.0, 0.8)}, (0.0, 0.5), 256, weights,
        ("cat", "bench"), threshold=(0.7, 0.3),
    )  # fmt: skip
    expected, controller = naive.naive_latents(calm_model.pipeline, settings, SEED, STEPS, GUIDANCE)
    assert controller.nearest > 1e-9
    method = PromptToPrompt(
        operator, cross_replace_steps=0.8, self_replace_steps=0.5, weights=weights, blend_threshold=0.7,
        heads=heads, blend_heads=blend_heads,
    )  # fmt: skip
    others = [
        (target, replace(method, heads=None)),
        (target, replace(method, heads=1)),
        (target, FixedSeed()),
    ]
    for max_batch in (2, 64):
        ours, *rest = latents(calm_model, [(target, method), *others], max_batch)
        assert_close(ours, expected[1], rtol=0, atol=EXACT)
        everywhere = len(edited) == 2
        assert everywhere == ((ours - rest[0]).abs().max() < EXACT)


def test_where_layers_have_two_and_four_heads(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = xl.spec(folder).load()
    assert isinstance(model, StableDiffusionXL)
    assert set(model.layer_heads.values()) == {2, 4}
    controller = type("InThese", (InHeads,), {"edited": [1], "read": [1]})
    monkeypatch.setattr(materialised, "Controller", controller)
    ours = PromptToPrompt.__init__

    def init(self: PromptToPrompt, *arguments: Any, **settings: Any) -> None:
        ours(self, *arguments, heads=1, blend_heads=[1], **settings)

    monkeypatch.setattr(PromptToPrompt, "__init__", init)
    materialised.check_edit(model, lambda prompts, generators: xl.call(model, prompts, generators), "refine")
    monkeypatch.undo()
    wide = PromptToPrompt(tau=0.2, heads=3)
    with pytest.raises(
        ValueError, match="^heads: 3 is no head of every layer that is meant, the least has 2"
    ):
        latents(model, [(SWAP, wide)])
    fits, plain = latents(model, [(SWAP, replace(wide, blocks="8")), (SWAP, FixedSeed())])
    assert (fits - plain).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["flux", "pixart"])
@pytest.mark.parametrize(
    "name", [pytest.param("replace, per word", marks=pytest.mark.slow), "refine, per word, blended"]
)
def test_in_heads_of_a_transformer_an_edit_equals_formed_maps(family: str, name: str) -> None:
    module: Any = test_flux if family == "flux" else test_pixart
    model: Model = tiny_flow_model("flux")
    if family == "pixart":
        pipeline = test_pixart.tiny_pipeline(PixArtAlphaPipeline, sample_size=128, out_channels=4)
        model = PixArtAlpha(pipeline, 8, 8, height=32, width=32)
    edit = formed.EDITS[name]
    controller = JointInHeads(edit, model.tokenizers, STEPS, model.blend_side)
    controller.edited, controller.read = [1], [0]
    original = dict(model.denoiser.attn_processors)
    model.denoiser.set_attn_processor(module.FormedProcessor(controller))
    expected = module.run(model, [edit.source, edit.target], SEED, controller)
    model.denoiser.set_attn_processor(original)
    method = PromptToPrompt(
        edit.operator, cross_replace_steps=edit.cross, self_replace_steps=edit.itself, weights=edit.weights,
        blend_threshold=edit.threshold, heads=[1], blend_heads=0,
    )  # fmt: skip
    request = EditRequest(edit.source, edit.target, blend_words=edit.blend)
    made = [one.trajectory(request, model.tokenizers, STEPS) for one in (method, replace(method, heads=None))]
    guidance = test_flux.GUIDANCE if family == "flux" else 3.0
    for max_batch in (2, 64):
        sampling = Sampling(STEPS, guidance, max_batch=max_batch)
        found = tree_latents(model, [Group(edit.source, SEED, tuple(made))], sampling)
        assert_close(found[0, 1], expected[1], rtol=0, atol=test_flux.TOLERANCE)
        assert (found[0, 1] - found[0, 2]).abs().max() > 1e-3


@pytest.mark.usefixtures("padded_calls")
def test_a_compiled_model_makes_the_same_edit(calm_model: StableDiffusion) -> None:
    edits = [(SWAP, PromptToPrompt(tau=0.2, **one)) for one in ({"heads": 0}, {"blend_heads": 1}, {})]
    plain, padded = (latents(model, edits) for model in (calm_model, replace(calm_model, compile=True)))
    for one, other in zip(plain, padded, strict=True):
        assert_close(one, other, rtol=0, atol=EXACT)


def test_no_map_is_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    small = tiny_flow_model("flux")
    model = Flux(small.pipeline, 32, 32, height=128, width=128)
    predict, sizes = model.predict, formed.Sizes()

    def watched(*args: Any) -> Tensor:
        with sizes:
            return predict(*args)

    monkeypatch.setattr(model, "predict", watched)
    method = PromptToPrompt(tau=0, self_replace_steps=1.0, heads=1, local_blend=False)
    latents(model, [(SWAP, method), (SWAP, Projections(1.0, heads=0))])
    assert 0 < sizes.largest < model.pixels(32) ** 2


def test_heat_maps_of_single_heads_have_the_mean_of_all(calm_model: StableDiffusion) -> None:
    edit = (SWAP, PromptToPrompt(tau=0.2, heads=1))
    asked = ["cat", "dog", "bench"]
    found = [heat_maps(calm_model, SOURCE, asked, edit, sampling=SAMPLING, heads=h) for h in (None, 0, [1])]
    for of in ("source", "edited"):
        whole, first, second = (getattr(one, of).maps for one in found)
        for key, maps in whole.items():
            assert_close(torch.tensor((first[key] + second[key]) / 2), torch.tensor(maps), rtol=0, atol=EXACT)
            assert abs(first[key] - second[key]).max() > 1e-3
    with pytest.raises(
        ValueError, match="^heads: 2 is no head of every layer that is meant, the least has 2"
    ):
        heat_maps(calm_model, SOURCE, asked, edit, sampling=SAMPLING, heads="1..2")


def test_heads_by_their_names() -> None:
    def chosen(names: Any) -> list[int]:
        heads = Heads.named("heads", names)
        assert heads
        return [number for number, yes in enumerate(heads.chosen(8)) if yes]

    assert chosen(3) == chosen("3") == chosen([3]) == [3]
    assert chosen(["6..7", 0]) == [0, 6, 7]
    assert chosen(["no-1..6", "no-0"]) == [7]
    assert Heads.named("heads", None) is None
    keys = {names: Heads.named("heads", list(names)).key for names in ((4, "0..2"), ("no-5", "no-4", "no-0"))}  # type: ignore[union-attr]
    assert list(keys.values()) == ["0..2 4", "no-0 no-4..5"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"heads: \[\] names no head, allowed are null and such as 0, 3..7 and no-2"),
        (1.5, "heads: 1.5 names no head"),
        (True, "heads: True is no head, allowed are such as 0"),
        (-1, "heads: '-1' is no head"),
        ("3..1", "heads: '3..1' runs backwards, allowed is 1..3"),
        ([1, "0..2"], "heads: 1 is named twice in 1, 0..2"),
        (["no-1", 2], "heads: no-1, 2 says of some what is meant and of others what is left out"),
        ("double-0", "heads: 'double-0' is no head"),
        ("0-3", "heads: '0-3' is no head"),
        ("99999", "heads: '99999' is no head"),
    ],
)
def test_what_names_no_head_is_one_line(names: Any, message: str) -> None:
    for method in (PromptToPrompt, Projections):
        with pytest.raises(ValueError, match=f"^{message}") as refused:
            method(heads=names)
        assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match=f"^blend_{message}"):
        PromptToPrompt(blend_heads=names)


@pytest.mark.parametrize(
    ("family", "method", "message"),
    [
        ("unet", PromptToPrompt(tau=0.2, heads="0..2"), "heads: 2 is no head of every layer that is meant, "),
        ("unet", PromptToPrompt(tau=0.2, blend_heads=7), "blend_heads: 7 is no head of every layer"),
        ("unet", PromptToPrompt(tau=0.2, heads="no-0..1"), "heads: no-0..1 leaves none of 2 heads"),
        (
            "flux",
            PromptToPrompt(tau=0.2, heads=2),
            "heads: 2 is no head .* the least has 2, allowed are 0 to 1",
        ),
        ("flux", Projections(0.5, heads=[0, 5]), "heads: 5 is no head of every layer that is meant, "),
    ],
)
def test_heads_a_model_has_not_are_one_line(
    calm_model: StableDiffusion, family: str, method: Any, message: str
) -> None:
    model = calm_model if family == "unet" else tiny_flow_model("flux")
    with pytest.raises(ValueError, match=f"^{message}") as refused:
        latents(model, [(SWAP, method)])
    assert "\n" not in str(refused.value)
    request = EditRequest(SOURCE, SWAP, blend_words=("cat", "bench"))
    edit = method.trajectory(request, model.tokenizers, STEPS)
    with pytest.raises(ValueError, match=f"^{message}"):  # before anything is computed
        check_edits(model, [edit])


def test_what_a_second_stage_has_not_is_refused_before_the_first() -> None:
    model, wide = tiny_flow_model("flux"), tiny_flow_model("sd3")
    wide.layer_heads = dict.fromkeys(wide.attention_layers, 4)
    for method in (PromptToPrompt(tau=0.2, heads=3), PromptToPrompt(tau=1, blend_heads=3)):
        edit = method.trajectory(
            EditRequest(SOURCE, SWAP, blend_words=("cat", "bench")), model.tokenizers, STEPS
        )
        check_edits(wide, [edit])
        with pytest.raises(ValueError, match="3 is no head of every layer that is meant, the least has 2"):
            check_edits(replace(wide, upscaler=model), [edit])
