"""The prompt switch: against loops written by hand over diffusers' parts, and as branches of a tree."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from p2p import (
    DDIM,
    Calls,
    Direct,
    EditRequest,
    FixedSeed,
    Group,
    Model,
    PromptSwitch,
    PromptToPrompt,
    Sampling,
    StableDiffusion,
    generate,
)
from p2p.engine import source_paths, tree_latents
from p2p.evaluations import plan_evaluations
from p2p.tree import build_tree, count_first_states, count_states
from tests.p2p.inversion.flow_models import (
    GUIDANCE,
    METHODS_RUN_ON,
    SOURCE,
    SWAP,
    levels,
    tiny_flow_model,
    velocity_of,
)

STEPS = 5
SAMPLING = Sampling(STEPS, GUIDANCE)


def group(model: Model, methods: list[object], target: str = SWAP, seed: int = 3) -> Group:
    request = EditRequest(SOURCE, target)
    edits = tuple(m.trajectory(request, model.tokenizers, STEPS) for m in methods)  # type: ignore[attr-defined]
    return Group(SOURCE, seed, edits)


@torch.no_grad()
@pytest.mark.parametrize("inversion", [None, Direct()], ids=str)
def test_on_stable_diffusion_it_equals_a_loop_over_the_unet(
    calm_model: StableDiffusion, picture: Tensor, inversion: Direct | None
) -> None:
    """By direct inversion no edit shares a state with its source, even while their prompts are one."""
    one = group(calm_model, [PromptSwitch(0.4)])
    if inversion:
        one = replace(one, image=lambda: picture, inversion=inversion)
    [path] = source_paths(calm_model, [one], SAMPLING)
    assert path is not None
    ours = tree_latents(calm_model, [one], SAMPLING, paths=[path])
    pipeline, latents = calm_model.pipeline, path.latents[None]

    def text(prompt: str) -> Tensor:
        ids = pipeline.tokenizer([prompt], padding="max_length", return_tensors="pt").input_ids
        return pipeline.text_encoder(ids).last_hidden_state

    scheduler = calm_model.new_scheduler(STEPS)
    for step, timestep in enumerate(scheduler.timesteps):
        uncond = pipeline.unet(latents, timestep, text("")).sample
        cond = pipeline.unet(latents, timestep, text(SOURCE if step < 2 else SWAP)).sample
        latents = scheduler.step(uncond + GUIDANCE * (cond - uncond), timestep, latents).prev_sample
    torch.testing.assert_close(ours[0, 1], latents[0], rtol=0, atol=1e-9)
    assert (ours[0, 1] - ours[0, 0]).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("family", METHODS_RUN_ON)
def test_along_a_flow_it_equals_a_loop_over_the_transformer(family: str) -> None:
    model = tiny_flow_model(family)
    ours = tree_latents(model, [group(model, [PromptSwitch(0.4)])], SAMPLING)
    velocity = velocity_of(model)
    latents = model.draw_noise([torch.Generator().manual_seed(3)])
    for step, (here, there) in enumerate(pairwise(levels(model))):
        latents = latents + (there - here) * velocity(latents, here, SOURCE if step < 2 else SWAP, GUIDANCE)
    # diffusers' scheduler, which the engine takes for a generated source, rounds to single precision.
    torch.testing.assert_close(ours[0, 1], latents[0], rtol=0, atol=1e-5)
    assert (ours[0, 1] - ours[0, 0]).abs().max() > 1e-2


def test_0_is_the_fixed_seed_and_equal_prompts_are_the_source(calm_model: StableDiffusion) -> None:
    [edited] = generate(calm_model, [group(calm_model, [PromptSwitch(0.0), FixedSeed()])], SAMPLING)
    assert torch.equal(edited.images[0], edited.images[1])
    same = group(calm_model, [PromptSwitch(share) for share in (0.2, 0.8)], SOURCE)
    assert plan_evaluations([same], STEPS, SAMPLING) == 2 * STEPS
    [edited] = generate(calm_model, [same], SAMPLING)
    assert all(torch.equal(image, edited.source) for image in edited.images)


def test_a_sweep_shares_the_steps_before_each_switch(calm_model: StableDiffusion) -> None:
    methods = [PromptSwitch(share) for share in (0.0, 0.2, 0.4, 0.6, 0.8)]
    mixed = group(calm_model, [*methods, FixedSeed(), PromptToPrompt(tau=0.4), PromptToPrompt(tau=0.0)])
    counted: list[int] = []
    together = tree_latents(calm_model, [mixed], SAMPLING, Calls(6, counted.append))
    assert sum(counted) == plan_evaluations([mixed], STEPS, SAMPLING)
    # The source, five targets from step 0, 1, 2, 3 and 4 on; the fixed seed is the first of them.
    assert plan_evaluations([replace(mixed, edits=mixed.edits[:6])], STEPS, SAMPLING) == 2 * (5 + 15)
    for branch in (2, 4, 7):
        alone = tree_latents(calm_model, [replace(mixed, edits=(mixed.edits[branch - 1],))], SAMPLING)
        torch.testing.assert_close(together[0, branch], alone[0, 1], rtol=0, atol=1e-9)
    assert len({trajectory.digest() for trajectory in mixed.edits}) == len(mixed.edits) - 1
    for start, apart in ((0, False), (2, False), (2, True)):
        tree = mixed.tree()
        nodes = build_tree([tree], STEPS, start, [0] if apart else ())
        assert count_states(tree, STEPS, start, apart) == sum(map(len, nodes))
        assert count_first_states(tree, STEPS, start, apart) == len(nodes[0])


@torch.no_grad()
def test_after_an_inversion_it_leaves_the_source_at_the_switch(
    calm_model: StableDiffusion, picture: Tensor
) -> None:
    switched = group(calm_model, [PromptSwitch(0.8), PromptSwitch(0.2)])
    inverted = replace(switched, image=lambda: picture, inversion=DDIM())
    ours = tree_latents(calm_model, [inverted], SAMPLING)
    distances = [(ours[0, branch] - ours[0, 0]).square().mean() for branch in (1, 2)]
    assert 0 < distances[0] < distances[1]


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan"), "half"])
def test_a_share_out_of_range_is_named(share: float) -> None:
    with pytest.raises(ValueError, match="switch_after: "):
        PromptSwitch(share)


def test_a_share_that_comes_to_no_step_is_an_error(calm_model: StableDiffusion) -> None:
    """20 % of 4 steps would be none, so that the edit were the fixed seed's under another name."""
    request = EditRequest(SOURCE, SWAP)
    message = "switch_after: 0.2 of 4 steps is no step, allowed are 0 and 1/4 or more"
    with pytest.raises(ValueError, match=message):
        PromptSwitch(0.2).trajectory(request, calm_model.tokenizers, 4)
    assert PromptSwitch(0.29).trajectory(request, calm_model.tokenizers, 100).before == (SOURCE, 29)
