"""Maps injected and read in some layers alone: against formed maps, in trees and chunks; names, refusals."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from p2p import EditRequest, FixedSeed, Group, Model, PromptToPrompt, Sampling, StableDiffusion, generate
from p2p.attention.joint_blocks import Blocks
from p2p.attention.places import Places
from p2p.engine import tree_latents
from p2p.local_blend import smoothed
from p2p.word_maps import layer_group
from tests.p2p.families import test_deepfloyd, test_flux
from tests.p2p.families.formed import EDITS, Controller
from tests.p2p.families.tiny_deepfloyd import save_tiny_deepfloyd
from tests.p2p.inversion.flow_models import tiny_flow_model
from tests.p2p.naive import Settings, naive_latents

SOURCE, SWAP, ADD = "a cat on a bench", "a dog on a bench", "a cat with a hat on a bench"
STEPS, SEED, GUIDANCE = 4, 1, 3.0
SAMPLING = Sampling(STEPS, GUIDANCE)
EXACT = 1e-8
WIDE = {"cross_replace_steps": 0.8, "self_replace_steps": 0.5}


def latents(model: Model, edits: list[tuple[str, Any]], sampling: Sampling = SAMPLING) -> list[torch.Tensor]:
    words = ("cat", "bench")
    made = tuple(
        method.trajectory(EditRequest(SOURCE, target, blend_words=words), model.tokenizers, STEPS)
        for target, method in edits
    )
    found = tree_latents(model, [Group(SOURCE, SEED, made)], sampling)
    return [found[0, branch + 1] for branch in range(len(edits))]


@pytest.mark.parametrize("blocks", [["down"], ["mid", "up-16"], ["8"]], ids=str)
@torch.no_grad()
def test_in_groups_of_a_unet_an_edit_equals_formed_maps(
    calm_model: StableDiffusion, blocks: list[str]
) -> None:
    unet = calm_model.pipeline.unet
    begins = {
        "down": ("down_blocks",), "mid": ("mid_block",), "up-16": ("up_blocks.1",),
        "8": ("down_blocks.1", "mid_block", "up_blocks.0"),
    }  # fmt: skip
    within = [n for n in unet.attn_processors if n.startswith(tuple(b for k in blocks for b in begins[k]))]
    assert 0 < len(within) < len(unet.attn_processors)
    settings = Settings(SOURCE, ADD, "refine", "fixed", {"default_": (0.0, 0.8)}, (0.0, 0.5), 256)
    formed, _ = naive_latents(calm_model.pipeline, settings, SEED, STEPS, GUIDANCE, within=within)
    [ours] = latents(calm_model, [(ADD, PromptToPrompt("refine", blocks=blocks, local_blend=False, **WIDE))])
    everywhere, _ = naive_latents(calm_model.pipeline, settings, SEED, STEPS, GUIDANCE)
    assert (formed[1] - everywhere[1]).abs().max() > 1e-3
    torch.testing.assert_close(ours, formed[1], rtol=0, atol=EXACT)


@pytest.mark.parametrize("blocks", [["double-1"], ["double-0", "single-0"]], ids=str)
def test_in_blocks_of_flux_an_edit_equals_formed_maps(blocks: list[str]) -> None:
    model = test_flux.tiny_flux()
    edit = EDITS["refine"]
    names = {"double-0": "transformer_blocks.0.", "double-1": "transformer_blocks.1."}
    begins = tuple(names.get(name, "single_transformer_blocks.0.") for name in blocks)
    original = dict(model.denoiser.attn_processors)
    controller = Controller(edit, model.tokenizers, STEPS, model.blend_side)
    formed = {n: test_flux.FormedProcessor(controller) for n in original if n.startswith(begins)}
    assert len(formed) == len(blocks)
    model.denoiser.set_attn_processor({**original, **formed})
    expected = test_flux.run(model, [edit.source, edit.target], SEED, controller)
    model.denoiser.set_attn_processor(original)
    whole = edit.trajectory(model.tokenizers, STEPS)
    places = Places.named("blocks", blocks)
    injections = tuple(one and replace(one, places=places) for one in whole.injections)
    group = Group(edit.source, SEED, (replace(whole, injections=injections), whole))
    found = tree_latents(model, [group], Sampling(STEPS, test_flux.GUIDANCE))
    assert (found[0, 1] - found[0, 2]).abs().max() > 1e-3
    torch.testing.assert_close(found[0, 1], expected[1], rtol=0, atol=test_flux.TOLERANCE)


def branches(all_named: Any) -> list[tuple[str, PromptToPrompt]]:
    """Return edits in other places each, some with a LocalBlend, some in all layers."""
    mixed = [all_named[:1], all_named[1:], None, all_named]
    tau = {"tau": 0.2, "blend_threshold": 0.5}
    edits = [(SWAP, PromptToPrompt(blocks=blocks, **tau)) for blocks in mixed]
    return [*edits, (ADD, PromptToPrompt(blocks=all_named[:1], tau=0.5, local_blend=False))]


@pytest.mark.parametrize("family", ["unet", pytest.param("flux", marks=pytest.mark.slow)])
def test_branches_with_places_of_their_own_share_calls(calm_model: StableDiffusion, family: str) -> None:
    """In calls of every size each equals itself alone, and all layers by name are what no names are."""
    model = calm_model if family == "unet" else tiny_flow_model("flux")
    names = ["down", "mid", "up"] if family == "unet" else ["double-0", "double-1", "single-0"]
    edits = branches(names)
    alone = [latents(model, [edit])[0] for edit in edits]
    tolerance = EXACT if family == "unet" else 1e-5  # flow matching's scheduler rounds to single precision
    for size in (2, 6, 64):
        together = latents(model, edits, replace(SAMPLING, max_batch=size))
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=tolerance)
    torch.testing.assert_close(alone[2], alone[3], rtol=0, atol=tolerance)
    assert (alone[0] - alone[1]).abs().max() > 100 * tolerance


def test_places_are_part_of_what_an_edit_is_and_their_order_is_not(calm_model: StableDiffusion) -> None:
    def digest(**settings: Any) -> str:
        request = EditRequest(SOURCE, SWAP, blend_words=("cat", "dog"))
        method = PromptToPrompt(tau=0.2, **settings)
        return method.trajectory(request, calm_model.tokenizers, STEPS).digest()

    different = [
        {}, {"blocks": "up"}, {"blocks": ["up-16"]}, {"blocks": ["mid", "up-16"]}, {"blocks": "double-0..3"},
        {"blocks": "no-up"}, {"blocks": ["no-mid", "no-up-16"]}, {"blocks": "no-double-0..3"},
        {"blend_layers": "up-16"}, {"blend_layers": ["down-16", "up-16"]}, {"blend_smoothing": 1.0},
        {"heads": 0}, {"heads": "0..3"}, {"heads": "no-0"}, {"heads": 0, "blocks": "up"}, {"blend_heads": 0},
    ]  # fmt: skip
    assert len({digest(**one) for one in different}) == len(different)
    assert digest(blocks=["up-16", "mid"]) == digest(blocks=("mid", "up-16"))
    assert digest(blocks=None, blend_layers=None, blend_smoothing=0, heads=None, blend_heads=None) == digest()
    assert digest(heads=[3, "1..2"]) == digest(heads="1..3") == digest(heads=[1, 2, "3"])
    assert digest(blocks=["up"]) == digest(blocks="up")
    assert digest(blocks=16) == digest(blocks=[16]) == digest(blocks="16")  # as YAML reads it


@pytest.mark.parametrize("family", ["unet", "flux"])
def test_what_is_left_out_is_all_but_that(calm_model: StableDiffusion, family: str) -> None:
    model = calm_model if family == "unet" else tiny_flow_model("flux")
    pairs: dict[str, list[tuple[Any, Any]]] = {
        "unet": [("no-mid", ["down", "up"]), (["no-down", "no-up-8"], ["mid", "up-16"])],
        "flux": [("no-double-1", ["double-0", "single-0"]), (["no-single-0", "no-double-0"], "double-1")],
    }
    for without, within in pairs[family]:
        left, named = (Places.named("blocks", names) for names in (without, within))
        assert left
        assert named
        assert model.layers_at(left) == model.layers_at(named)
    if family == "flux":
        own = {"double": 2, "single": 1}, model.cross_layers()
        taken = [Blocks.named(names).taken(*own) for names in pairs["flux"][0]]
        assert taken[0] == taken[1]
        with pytest.raises(ValueError, match="blocks: no-double-0..1 no-single-0 leaves no block"):
            Blocks.named(["no-double-0..1", "no-single-0"]).taken(*own)


def test_both_stages_of_deepfloyd_edit_in_the_parts_that_are_named(deepfloyd: Path) -> None:
    model = test_deepfloyd.spec(deepfloyd).load()
    tau = {"tau": 0.2, "self_replace_steps": 0.5}
    sets: list[Any] = [None, ["down", "mid", "up"], "up"]
    made = tuple(
        PromptToPrompt(blocks=one, **tau).trajectory(EditRequest(SOURCE, SWAP), model.tokenizers, STEPS)
        for one in sets
    )
    [edited] = generate(model, [Group(SOURCE, SEED, made)], Sampling(STEPS, 2.0))
    torch.testing.assert_close(edited.images[0], edited.images[1], rtol=0, atol=1.01 / 255)
    assert not torch.equal(edited.images[0], edited.images[2])
    fine = PromptToPrompt(blocks="16", **tau).trajectory(EditRequest(SOURCE, SWAP), model.tokenizers, STEPS)
    coarse = PromptToPrompt(blocks="8", **tau).trajectory(EditRequest(SOURCE, SWAP), model.tokenizers, STEPS)
    generate(model, [Group(SOURCE, SEED, (fine,))], Sampling(STEPS, 2.0))
    with pytest.raises(ValueError, match="blocks: no layer of this UNet is in 8, allowed are "):
        generate(model, [Group(SOURCE, SEED, (coarse,))], Sampling(STEPS, 2.0))  # its upscaler has none


@pytest.fixture(scope="module")
def deepfloyd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_deepfloyd(tmp_path_factory.mktemp("deepfloyd"))


def test_at_tau_1_places_change_nothing(calm_model: StableDiffusion) -> None:
    edits = [(SWAP, PromptToPrompt(tau=1, blocks="mid", local_blend=False)), (SWAP, FixedSeed())]
    here, plain = latents(calm_model, edits)
    assert torch.equal(here, plain)


def test_a_blend_reads_the_layers_it_is_told(calm_model: StableDiffusion) -> None:
    cross = calm_model.cross_layers()
    down = layer_group("down-16", calm_model)
    assert layer_group("16", calm_model).layers == tuple(n for n in cross if cross[n][1] == 16)
    both = layer_group("down-16 up-16", calm_model)
    assert set(both.layers) == {*down.layers, *layer_group("up-16", calm_model).layers}
    plain, same, other, soft = (
        PromptToPrompt(tau=0.4, blend_threshold=0.7, blend_layers=layers, blend_smoothing=smoothing)
        for layers, smoothing in ((None, 0.0), ("16", 0.0), ("mid", 0.0), (None, 2.0))
    )
    found = latents(calm_model, [(SWAP, method) for method in (plain, same, other, soft)])
    side = layer_group(str(calm_model.blend_side), calm_model)
    if calm_model.blend_side == 16:
        assert side.layers == layer_group("16", calm_model).layers
        torch.testing.assert_close(found[0], found[1], rtol=0, atol=EXACT)
    assert (found[1] - found[2]).abs().max() > 1e-3
    assert (found[0] - found[3]).abs().max() > 1e-3


def test_a_transformers_blocks_can_be_read() -> None:
    model = tiny_flow_model("flux")
    assert layer_group("double-1 single-0", model).layers == (
        "transformer_blocks.1.attn.processor", "single_transformer_blocks.0.attn.processor",
    )  # fmt: skip


def test_smoothing_is_a_gaussian_whose_weights_are_known() -> None:
    maps = torch.zeros(1, 2, 9, 9, dtype=torch.float64)
    maps[0, 0, 4, 4], maps[0, 1] = 1.0, 0.3
    found = smoothed(maps, 1.0)
    weights = [math.exp(-(d**2) / 2) for d in range(-3, 4)]
    shares = torch.tensor([w / sum(weights) for w in weights], dtype=torch.float64)
    torch.testing.assert_close(found[0, 0, 1:8, 1:8], shares[:, None] * shares, rtol=0, atol=1e-12)
    torch.testing.assert_close(found[0, 1], maps[0, 1], rtol=0, atol=1e-12)  # up to the border
    assert smoothed(maps, 0.0) is maps


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"blocks": []},
            r"blocks: \[\] names no layer, allowed are null and such as double-0..7 and single-3",
        ),
        ({"blocks": "top"}, "blocks: 'top' is no block, allowed are such as double-3"),
        (
            {"blocks": ["up", "double-3"]},
            "blocks: 'double-3' beside 'up', which a UNet has, allowed are such as",
        ),
        ({"blocks": ["up", "up"]}, "blocks: up, up names a group twice"),
        ({"blocks": "up-0"}, "blocks: 'up-0' is no block"),
        ({"blocks": 1.5}, "blocks: 1.5 names no layer"),
        ({"blocks": [True]}, "blocks: True is no block"),
        ({"blocks": [-16]}, "blocks: '-16' is no block"),
        ({"blend_layers": "double-7..3"}, "blend_layers: 'double-7..3' runs backwards"),
        ({"blocks": ["no-up", "mid"]}, "blocks: no-up, mid says of some what is meant and of others what is"),
        ({"blocks": "no-no-up"}, "blocks: 'no-up' is no block"),
        ({"blend_smoothing": -1}, "blend_smoothing: -1 is not a finite number of at least 0"),
    ],
)
def test_what_names_no_layer_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as refused:
        PromptToPrompt(**settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        (
            "unet",
            {"blocks": "double-0"},
            "blocks: double-0 is of a transformer, allowed are down, mid and up of",
        ),
        (
            "unet",
            {"blocks": "up-32"},
            "blocks: no layer of this UNet is in up-32, allowed are down, 16, down-16",
        ),
        ("unet", {"blend_layers": "up-32"}, "blend_layers: no layer of this UNet is in up-32"),
        ("unet", {"blend_layers": ["16", "8"]}, "layers: 16 8 has cross-attention of 8, 16 tokens in height"),
        (
            "unet",
            {"blocks": ["no-down", "no-mid", "no-up"]},
            "blocks: no-down no-mid no-up leaves no layer of this model",
        ),
        (
            "flux",
            {"blocks": "no-double-2"},
            "blocks: double-2 is no block of this model, allowed are double-0..1 and single-0",
        ),
        (
            "flux",
            {"blocks": "up"},
            "blocks: up is of a UNet, allowed are this transformer's double and single b",
        ),
        (
            "flux",
            {"blend_layers": "double-7"},
            "blend_layers: double-7 is no block of this model, allowed are ",
        ),
    ],
)
def test_places_a_model_has_not_are_one_line(
    calm_model: StableDiffusion, family: str, settings: dict[str, Any], message: str
) -> None:
    model = calm_model if family == "unet" else tiny_flow_model("flux")
    with pytest.raises(ValueError, match=f"^{message}") as refused:
        latents(model, [(SWAP, PromptToPrompt(tau=0.2, **settings))])
    assert "\n" not in str(refused.value)
