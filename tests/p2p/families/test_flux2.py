"""Flux.2: plain runs equal diffusers' pipelines; formed maps; templated, padded text; patches."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux2 import Flux2ParallelSelfAttention
from torch import Tensor

from p2p import (
    Calls,
    EditRequest,
    FixedSeed,
    Flux2,
    Flux2Klein,
    Group,
    ModelSpec,
    PromptToPrompt,
    Sampling,
    SDEdit,
)
from p2p.alignment import encode
from p2p.engine import derived_seed, generate, tree_latents
from p2p.evaluations import plan_evaluations
from tests.p2p.families.formed import (
    Controller,
    assert_a_source_is_the_same_in_any_call,
    assert_no_map_is_formed,
    edit_joint,
    load,
)
from tests.p2p.families.tiny_flux2 import (
    TEXT,
    ShortDev,
    ShortKlein,
    short_dev,
    short_klein,
    tiny_dev,
    tiny_klein,
)

pytestmark = pytest.mark.xdist_group("flux2")

STEPS, SIDE, GUIDANCE = 4, 8, 4.0
SOURCE, SWAP, LONGER = "a cat on a bench", "a dog on a bench", "a chinchilla with a red hat on a bench"
# The scheduler rounds latents, rotary embedding rounds queries and keys to single precision.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def klein() -> Flux2:
    return short_klein()


@pytest.fixture(scope="module")
def dev() -> Flux2:
    return short_dev()


@pytest.fixture(scope="module", params=["klein", "dev"])
def model(request: pytest.FixtureRequest) -> Flux2:
    found: Flux2 = request.getfixturevalue(request.param)
    return found


class FormedProcessor:
    """Attention with formed maps over [text, image]; a controller edits the last two rows of the first call
    of every `calls`, the conditional one, which visits three layers.
    """

    def __init__(self, controller: Controller, calls: int = 2) -> None:
        self.controller, self.calls, self.visits = controller, calls, 0

    def __call__(self, attn, hidden_states, *rest) -> Any:
        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        single, mlp = isinstance(attn, Flux2ParallelSelfAttention), None
        if single:
            _, image_rotary_emb = rest
            width = attn.inner_dim
            joined = attn.to_qkv_mlp_proj(hidden_states)
            query, key, value = (heads(joined[..., i * width : (i + 1) * width]) for i in range(3))
            query, key, mlp = attn.norm_q(query), attn.norm_k(key), attn.mlp_act_fn(joined[..., 3 * width :])
        else:
            text, _, image_rotary_emb = rest
            own = attn.norm_q(heads(attn.to_q(hidden_states))), attn.norm_k(heads(attn.to_k(hidden_states)))
            added = (
                attn.norm_added_q(heads(attn.add_q_proj(text))),
                attn.norm_added_k(heads(attn.add_k_proj(text))),
            )
            query, key = (torch.cat(pair, 2) for pair in zip(added, own, strict=True))
            value = torch.cat([heads(attn.add_v_proj(text)), heads(attn.to_v(hidden_states))], 2)
        query, key = apply_rotary_emb(query, image_rotary_emb), apply_rotary_emb(key, image_rotary_emb)
        maps = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1)
        conditional, self.visits = self.visits // 3 % self.calls == 0, self.visits + 1
        if conditional:
            maps = torch.cat([maps[:-2], edit_joint(self.controller, maps[-2:], slice(0, TEXT))])
        output = (maps @ value).transpose(1, 2).flatten(2)
        if single:
            return attn.to_out(torch.cat([output, mlp], -1))
        return attn.to_out[0](output[:, TEXT:]), attn.to_add_out(output[:, :TEXT])


def run(
    model: Flux2,
    prompts: list[str],
    seed: int,
    controller: Controller | None = None,
    guidance: float = GUIDANCE,
    **more: Any,
) -> Tensor:
    """Return the last latents of diffusers' own call, whose result is another for each of its pipelines."""
    kept: list[Tensor] = []

    def end(_: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        latents = tensors["latents"].transpose(1, 2).unflatten(2, (SIDE, SIDE))
        kept.append(latents if controller is None else controller.end_of_step(latents))
        return {"latents": kept[-1].flatten(2).transpose(1, 2)}

    model.pipeline(
        prompt=list(prompts),
        guidance_scale=guidance,
        num_inference_steps=STEPS,
        height=32,
        width=32,
        generator=[torch.Generator().manual_seed(seed) for _ in prompts],
        max_sequence_length=TEXT,
        output_type="latent",
        callback_on_step_end=end,
        **more,
    )
    return kept[-1]


@pytest.mark.parametrize("guidance", [GUIDANCE, 1.0])
def test_source_and_tau_1_equal_plain_diffusers(model: Flux2, guidance: float) -> None:
    tau_1 = PromptToPrompt(tau=1).trajectory(EditRequest(SOURCE, LONGER), model.tokenizers, STEPS)
    ours = tree_latents(model, [Group(SOURCE, 3, (tau_1,))], Sampling(STEPS, guidance))
    plain = run(model, [SOURCE, LONGER], 3, guidance=guidance)
    torch.testing.assert_close(torch.stack([ours[0, 0], ours[0, 1]]), plain, rtol=0, atol=TOLERANCE)
    assert (plain[0] - plain[1]).abs().max() > 1e-2
    assert ((plain - run(model, [SOURCE, LONGER], 3, guidance=1.0)).abs().max() > 1e-3) == (guidance > 1)


def test_a_negative_prompt_is_what_diffusers_takes_as_embeddings_alone(klein: Flux2, dev: Flux2) -> None:
    model = klein
    embeds, _ = model.pipeline.encode_prompt("a hat", max_sequence_length=TEXT)
    plain = run(model, [SOURCE], 3, negative_prompt_embeds=embeds)
    sampling = Sampling(STEPS, GUIDANCE, negative_prompt="a hat")
    ours = tree_latents(model, [Group(SOURCE, 3, ())], sampling)[0, 0]
    torch.testing.assert_close(ours, plain[0], rtol=0, atol=TOLERANCE)
    assert (plain - run(model, [SOURCE], 3)).abs().max() > 1e-3
    with pytest.raises(ValueError, match="negative_prompt: 'a hat' does nothing"):
        generate(dev, [Group(SOURCE, 3, ())], sampling)


def test_images_are_those_of_the_pipeline(model: Flux2) -> None:
    """By the statistics of the autoencoder's patches, on the way out and in."""
    [edited] = generate(model, [Group(SOURCE, 3, ())], Sampling(STEPS, GUIDANCE))
    expected = model.pipeline(
        prompt=SOURCE,
        guidance_scale=GUIDANCE,
        num_inference_steps=STEPS,
        height=32,
        width=32,
        generator=torch.Generator().manual_seed(3),
        max_sequence_length=TEXT,
        output_type="pt",
    ).images
    torch.testing.assert_close(edited.source, expected[0].float(), rtol=0, atol=0.51 / 255)  # 8 bits
    encoded = model.encode(edited.source[None])
    with torch.no_grad():
        own = model.pipeline._encode_vae_image(edited.source[None].double() * 2 - 1, None)
    torch.testing.assert_close(encoded, own, rtol=0, atol=1e-12)


def test_no_map_is_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_no_map_is_formed(short_klein(pixels=128), FormedProcessor, monkeypatch)


@pytest.mark.parametrize(("kind", "pipeline"), [(ShortKlein, tiny_klein), (ShortDev, tiny_dev)])
def test_a_source_is_the_same_alone_and_beside_longer_prompts_in_bfloat16(kind: Any, pipeline: Any) -> None:
    model = kind(pipeline().to(torch.bfloat16), SIDE, SIDE, height=32, width=32)
    assert_a_source_is_the_same_in_any_call(model, Sampling(STEPS, GUIDANCE), LONGER, LONGER)


def test_dev_is_planned_with_one_row_a_state(dev: Flux2) -> None:
    edits = (PromptToPrompt(tau=0.5).trajectory(EditRequest(SOURCE, SWAP), dev.tokenizers, STEPS),)
    groups, sampling, counted = [Group(SOURCE, 0, edits)], Sampling(STEPS, GUIDANCE), list[int]()
    generate(dev, groups, sampling, Calls(sampling.max_batch, counted.append))
    spec = ModelSpec("flux2_dev", "/nowhere", SIDE, SIDE, pipeline="Flux2Pipeline")
    assert sum(counted) == plan_evaluations(groups, STEPS, sampling, spec.guidance_embedded()) == 2 * STEPS


@pytest.mark.parametrize("is_distilled", [False, True])
def test_planning_counts_the_rows_of_a_state_without_weights(is_distilled: bool, tmp_path: Path) -> None:
    """That a pipeline was distilled is in its index, not in its transformer's config."""
    model = short_klein(is_distilled=is_distilled)
    model.pipeline.save_config(tmp_path)
    methods: Sequence[Any] = [PromptToPrompt(tau=0.5), FixedSeed(), SDEdit(0.5)]
    request = EditRequest(SOURCE, SWAP)
    edits = tuple(method.trajectory(request, model.tokenizers, STEPS) for method in methods)
    groups = [Group(SOURCE, 0, edits)]
    spec = ModelSpec("flux2_klein", str(tmp_path), SIDE, SIDE, pipeline="Flux2KleinPipeline")
    assert spec.guidance_embedded() == is_distilled
    states = 2 * STEPS + STEPS + STEPS // 2
    for guidance in (1.0, GUIDANCE):
        sampling, counted = Sampling(STEPS, guidance), list[int]()
        made = generate(model, groups, sampling, Calls(sampling.max_batch, counted.append))
        assert sum(counted) == plan_evaluations(groups, STEPS, sampling, spec.guidance_embedded())
        assert sum(counted) == states * (2 if guidance > 1 and not is_distilled else 1)
    if is_distilled:
        plain = run(model, [SOURCE], 0)  # which says in its log that guidance is ignored
        torch.testing.assert_close(made[0].source, model.decode(plain)[0], rtol=0, atol=0)
        with pytest.raises(ValueError, match="negative_prompt: 'fog' does nothing"):
            generate(model, groups, Sampling(STEPS, negative_prompt="fog"))


@pytest.mark.parametrize(
    ("tokens", "steps", "shift"), [(4300, 50, 2.045), (4301, 50, 1.185), (4300, 4, 2.308), (4301, 4, 1.185)]
)
def test_the_schedule_falls_off_a_cliff_at_4300_tokens(tokens: int, steps: int, shift: float) -> None:
    """The shift depends on tokens and steps up to there, above on tokens alone."""
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    options = Flux2Klein.timestep_options(scheduler, steps, tokens)
    assert options["mu"] == pytest.approx(shift, abs=1e-3)
    assert options["sigmas"] == pytest.approx([1 - i / steps for i in range(steps)])


@pytest.mark.parametrize(
    ("name", "tiny", "kind"), [("flux2_klein", tiny_klein, Flux2Klein), ("flux2_dev", tiny_dev, Flux2)]
)
def test_a_saved_folder_is_loaded_through_its_yaml(name: str, tiny: Any, kind: Any, tmp_path: Path) -> None:
    pipeline = tiny()
    pipeline.save_pretrained(tmp_path)
    sized = "+height=32", "+width=32"
    model = load(name, tmp_path, f"self_max_side={SIDE}", f"blend_side={SIDE}", *sized)
    edit = PromptToPrompt(tau=0).trajectory(EditRequest("a cat", "a dog"), model.tokenizers, STEPS)
    groups = [Group("a cat", 0, (edit,))]
    ours = tree_latents(model, groups, Sampling(STEPS, GUIDANCE))
    same = tree_latents(kind(pipeline, SIDE, SIDE, 32, 32), groups, Sampling(STEPS, GUIDANCE))
    torch.testing.assert_close(ours[0, 1], same[0, 1], rtol=0, atol=TOLERANCE)
    spec = ModelSpec(name, str(tmp_path), SIDE, SIDE, pipeline=kind.pipeline_name)
    [planned], [loaded] = spec.load_tokenizers(), model.tokenizers
    assert encode("a cat", planned) == encode("a cat", loaded)
    assert spec.unet_calls(STEPS) == STEPS
    assert spec.joint_blocks() == {"double": 2, "single": 1}
    other = ModelSpec("flux", str(tmp_path), SIDE, SIDE, pipeline="FluxPipeline")
    holds = f"holds a {kind.pipeline_name}, the model's pipeline is FluxPipeline"
    with pytest.raises(ValueError, match=holds):
        other.check()


def test_sdedit_is_diffusers_call_from_the_noised_picture(klein: Flux2) -> None:
    """diffusers has no image-to-image of Flux.2: the last half of its levels, written by hand."""
    sdedit = SDEdit(0.5).trajectory(EditRequest(SOURCE, SWAP), klein.tokenizers, STEPS)
    [edited] = generate(klein, [Group(SOURCE, 3, (sdedit,))], Sampling(STEPS, 1.0))
    picture = klein.encode(edited.source[None])
    noise = torch.randn(
        picture.shape, generator=torch.Generator().manual_seed(derived_seed(3)), dtype=torch.float64
    )
    levels = klein.new_scheduler(STEPS).sigmas.double().tolist()[STEPS // 2 :]
    latents = (1 - levels[0]) * picture + levels[0] * noise
    text, text_ids = klein.pipeline.encode_prompt(SWAP, max_sequence_length=TEXT)
    image_ids = klein.pipeline._prepare_latent_ids(latents)
    for here, there in pairwise(levels):
        with torch.no_grad():
            velocity = klein.pipeline.transformer(
                klein.pipeline._pack_latents(latents),
                text,
                torch.tensor([here]).double(),
                image_ids,
                text_ids,
            ).sample
        latents = latents + (there - here) * velocity.mT.unflatten(2, (SIDE, SIDE))
    torch.testing.assert_close(edited.images[0], klein.decode(latents)[0], rtol=0, atol=1.01 / 255)  # 8 bits
    assert (edited.images[0] - edited.source).abs().max() > 5 / 255
