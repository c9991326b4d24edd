"""Which layers edits take from, batches of such edits beside Prompt-to-Prompt's, and what is left behind."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.testing import assert_close

from p2p import (
    Calls,
    Direct,
    EditRequest,
    FixedSeed,
    Group,
    Inversion,
    MasaCtrl,
    NullText,
    PlugAndPlay,
    PromptToPrompt,
    Sampling,
    StableDiffusion,
    generate,
)
from p2p.attention.single_layers import DecoderBlock, LayerInjection, UNetLayers
from p2p.engine import source_paths, tree_latents
from p2p.evaluations import plan_evaluations
from p2p.families import FAMILIES, family_of
from p2p.trajectory import Trajectory
from tests.p2p.side_by_side import LAYERS

STEPS = 6
SAMPLING = Sampling(STEPS, 3.0)
SOURCE, OTHER = "a cat sitting on a bench", "a red cat sitting on a bench"
SWAP, ADD = "a dog sitting on a bench", "a cat with a hat sitting on a bench"
EXACT = 1e-8  # double precision; other batches round otherwise, and the random network amplifies that
EDITS: list[tuple[str, Any]] = [
    (SWAP, MasaCtrl(1)),
    (SWAP, PromptToPrompt(tau=0.2, self_replace_steps=0.8)),
    (ADD, MasaCtrl(2, 0)),
    (SWAP, PlugAndPlay()),
    (ADD, PlugAndPlay(0.9, 0.4, 0, 3)),
    (ADD, PromptToPrompt(tau=0.0)),
    (SWAP, FixedSeed()),
]
AUTO = {"masactrl": LayerInjection(keys_values="auto"), "pnp": LayerInjection(None, "auto", "auto")}


def trajectories(model: StableDiffusion, edits: Sequence[tuple[str, Any]]) -> tuple[Trajectory, ...]:
    return tuple(m.trajectory(EditRequest(SOURCE, target), model.tokenizers, STEPS) for target, m in edits)


def unet(depths: Sequence[int], crossing: Sequence[bool]) -> UNet2DConditionModel:
    """Return a tiny UNet of two layers a block; levels have `depths` transformer blocks, or no attention."""
    down = ["CrossAttnDownBlock2D" if crosses else "DownBlock2D" for crosses in crossing]
    up = ["CrossAttnUpBlock2D" if crosses else "UpBlock2D" for crosses in reversed(crossing)]
    return UNet2DConditionModel(
        sample_size=8,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        block_out_channels=(8,) * len(depths),
        layers_per_block=2,
        transformer_layers_per_block=tuple(depths),
        attention_head_dim=2,
        cross_attention_dim=8,
        norm_num_groups=4,
    )


@pytest.fixture(scope="module")
def like_sd1() -> UNet2DConditionModel:
    return unet((1, 1, 1, 1), (True, True, True, False))


@pytest.fixture(scope="module")
def like_sdxl() -> UNet2DConditionModel:
    return unet((1, 2, 10), (False, True, True))


def places(names: Sequence[str]) -> list[str]:
    """Return the blocks of attention layers, each once, in order: "up_blocks.1.attentions.2"."""
    return list(dict.fromkeys(".".join(name.split(".")[:4]) for name in names))


def test_layers_stand_in_the_order_of_the_forward_pass(like_sd1: UNet2DConditionModel) -> None:
    called: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: called.append(f"{name}.processor"))
        for name, module in like_sd1.named_modules()
        if name.endswith(".attn1")
    ]
    try:
        with torch.no_grad():
            like_sd1(torch.zeros(1, 4, 8, 8), 1, torch.zeros(1, 3, 8))
    finally:
        for handle in handles:
            handle.remove()
    assert UNetLayers.of(like_sd1).attention == tuple(called)
    registered = [name for name in like_sd1.attn_processors if ".attn1." in name]
    assert registered != called  # there the middle comes last


def test_auto_is_the_published_choice_for_stable_diffusion_1(like_sd1: UNet2DConditionModel) -> None:
    layers = UNetLayers.of(like_sd1)
    assert len(layers.attention) == 16
    assert layers.taken(AUTO["masactrl"]) == layers.taken(LayerInjection(keys_values=10))
    *attention, features = layers.taken(AUTO["pnp"])
    assert features == "up_blocks.1.resnets.1.conv2"
    blocks = [(1, 1), (1, 2), *((level, i) for level in (2, 3) for i in range(3))]
    assert places(attention) == [f"up_blocks.{level}.attentions.{i}" for level, i in blocks]
    assert {name.split("/")[1] for name in attention} == {"query", "key"}
    assert (*attention, features) == layers.taken(LayerInjection(queries_keys=4, features=4))


def test_auto_follows_the_same_rules_in_other_unets(
    like_sdxl: UNet2DConditionModel, calm_model: StableDiffusion
) -> None:
    large, small = UNetLayers.of(like_sdxl), calm_model.unet_layers
    assert len(large.attention) == 70
    assert large.taken(AUTO["masactrl"]) == large.taken(LayerInjection(keys_values=64))
    *attention, features = large.taken(AUTO["pnp"])
    assert features == "up_blocks.0.resnets.1.conv2"
    assert places(attention)[0] == "up_blocks.0.attentions.1"
    assert len(attention) == 2 * (2 * 10 + 3 * 2)
    assert small.attention == tuple(LAYERS)
    assert small.taken(AUTO["masactrl"]) == tuple(
        f"{layer}/{what}" for layer in LAYERS[5:] for what in ("key", "value")
    )
    assert small.taken(AUTO["pnp"])[-1] == "up_blocks.0.resnets.1.conv2"


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            MasaCtrl(1, 7),
            r"start_layer: 7 is no self-attention layer of this UNet, allowed are 0 to 1 \(down_blocks\), "
            r"2 \(mid_block\), 3 to 6 \(up_blocks\), auto$",
        ),
        (
            PlugAndPlay(attention_block=4),
            r"attention_block: 4 is no decoder block to take from, allowed are 0 to 3, auto \(self-attention "
            r"is in 0, 1, 2, 3\)$",
        ),
        (PlugAndPlay(feature_block=9), "feature_block: 9 is no decoder block to take from, allowed are 0 to"),
    ],
)
@pytest.mark.parametrize("real", [False, True])
def test_a_layer_that_is_not_there_is_an_error_before_anything_is_computed(
    calm_model: StableDiffusion, picture: Tensor, method: Any, message: str, real: bool
) -> None:
    edits = trajectories(calm_model, [(SWAP, FixedSeed()), (SWAP, method)])
    source = (lambda: picture, Direct()) if real else ()
    counted: list[int] = []
    with pytest.raises(ValueError, match=message):
        generate(calm_model, [Group(SOURCE, 0, edits, *source)], SAMPLING, Calls(64, counted.append))
    assert counted == []


def test_where_the_rule_cannot_apply_the_error_says_what_can() -> None:
    one = "up_blocks.0.attentions.0.transformer_blocks.0.attn1.processor"
    single = UNetLayers((one,), (DecoderBlock("up_blocks.0.resnets.0", (one,)),))
    with pytest.raises(ValueError, match=r"start_layer: auto .* allowed are 0 \(up_blocks\)$"):
        single.taken(LayerInjection(keys_values="auto"))
    with pytest.raises(
        ValueError, match=r"attention_block: auto .* allowed are 0 \(self-attention is in 0\)"
    ):
        single.taken(LayerInjection(queries_keys="auto"))
    none = UNetLayers((), (DecoderBlock("up_blocks.0.resnets.0", ()),))
    with pytest.raises(
        ValueError, match=r"attention_block: 0 .* allowed are none \(self-attention is in none"
    ):
        none.taken(LayerInjection(queries_keys=0))


def test_only_unets_with_a_softmax_for_self_attention_have_single_layers(
    calm_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    having = [name for name in FAMILIES if family_of(name).single_layers]
    assert having == ["StableDiffusionPipeline", "StableDiffusionXLPipeline", "LDMTextToImagePipeline"]
    monkeypatch.setattr(StableDiffusion, "single_layers", False)
    fresh = StableDiffusion(calm_model.pipeline, self_max_side=16, blend_side=16)
    counted: list[int] = []
    group = Group(SOURCE, 0, trajectories(fresh, [(SWAP, MasaCtrl())]))
    with pytest.raises(ValueError, match="takes from single layers of a UNet .* which this model has not"):
        generate(fresh, [group], SAMPLING, Calls(64, counted.append))
    assert counted == []


@pytest.mark.parametrize(
    "inversion",
    [None, *(pytest.param(one, marks=pytest.mark.slow) for one in (Direct(), NullText(inner_steps=1)))],
    ids=str,
)
def test_beside_other_edits_and_in_any_chunks_it_is_the_same(
    calm_model: StableDiffusion, picture: Tensor, inversion: Inversion | None
) -> None:
    """Two groups, so that a chunk may hold several sources, or targets whose sources went before."""
    edits = trajectories(calm_model, EDITS)
    real = [(lambda: picture, inversion), (lambda: picture.flip(2), inversion)] if inversion else [(), ()]
    groups = [Group(SOURCE, 0, edits, *real[0]), Group(OTHER, 1, edits[2:5], *real[1])]
    paths = source_paths(calm_model, groups, SAMPLING)
    alone: dict[tuple[int, int], Tensor] = {}
    for g, group in enumerate(groups):
        for branch, edit in enumerate(group.edits, start=1):
            one = Group(group.source_prompt, group.seed, (edit,), group.image, group.inversion)
            alone[g, branch] = tree_latents(calm_model, [one], SAMPLING, paths=[paths[g]])[0, 1]
    for max_batch in (2, 6, 64):
        counted: list[int] = []
        calls = Calls(max_batch, counted.append)
        together = tree_latents(calm_model, groups, SAMPLING, calls, paths)
        for key, latents in alone.items():
            assert_close(together[key], latents, rtol=0, atol=EXACT)
        made = plan_evaluations(groups, STEPS, SAMPLING)
        if inversion:
            made -= 2 * inversion.evaluations(SAMPLING)
        assert sum(counted) == made
    assert len({float(latents.sum()) for latents in together.values()}) == len(together)


def test_the_source_is_untouched_by_riders(calm_model: StableDiffusion) -> None:
    alone = tree_latents(calm_model, [Group(SOURCE, 0, ())], SAMPLING)[0, 0]
    riders = Group(SOURCE, 0, trajectories(calm_model, EDITS))
    assert_close(tree_latents(calm_model, [riders], SAMPLING)[0, 0], alone, rtol=0, atol=EXACT)
    apart = tree_latents(calm_model, [riders], SAMPLING, Calls(2))[0, 0]  # two rows are the source's own call
    assert torch.equal(apart, alone)


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) for part in module.modules())


@pytest.mark.parametrize("fails", [False, True])
def test_processors_and_hooks_are_restored_even_after_an_error(
    calm_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    unet = calm_model.pipeline.unet
    before = {name: type(processor) for name, processor in unet.attn_processors.items()}
    seen: list[int] = []

    def look(hidden_states: Tensor) -> Tensor:
        seen.append(hooks(unet))
        if fails:
            raise RuntimeError("no output today")
        return hidden_states[:, :4]

    monkeypatch.setattr(unet.conv_out, "forward", look)
    group = Group(SOURCE, 0, trajectories(calm_model, EDITS))
    if fails:
        with pytest.raises(RuntimeError, match="no output today"):
            tree_latents(calm_model, [group], SAMPLING)
    else:
        tree_latents(calm_model, [group], SAMPLING)
        assert seen[-1] == 0  # features are taken for a share of the steps
    assert seen[0] == 2  # of two residual blocks
    assert hooks(unet) == 0
    assert {name: type(processor) for name, processor in unet.attn_processors.items()} == before


def test_prompt_to_prompt_alone_installs_no_hook(
    calm_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a hook was installed")

    monkeypatch.setattr(nn.Module, "register_forward_hook", refuse)
    edits = [(target, method) for target, method in EDITS if isinstance(method, PromptToPrompt)]
    tree_latents(calm_model, [Group(SOURCE, 0, trajectories(calm_model, edits))], SAMPLING)
    group = Group(SOURCE, 0, trajectories(calm_model, [(SWAP, PlugAndPlay())]))
    with pytest.raises(AssertionError, match="a hook was installed"):
        tree_latents(calm_model, [group], SAMPLING)


def test_a_block_that_bypasses_its_last_convolution_is_an_error(
    calm_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = calm_model.pipeline.unet.up_blocks[0].resnets[1]
    monkeypatch.setattr(block, "forward", lambda hidden_states, temb: block.conv_shortcut(hidden_states))
    group = Group(SOURCE, 0, trajectories(calm_model, [(SWAP, PlugAndPlay())]))
    with pytest.raises(RuntimeError, match=r"layers: up_blocks.0.resnets.1.conv2 did not ask"):
        tree_latents(calm_model, [group], SAMPLING)
