"""Groups that start from a picture beside others: SDEdit, generated sources, one call, trees and maps."""

from dataclasses import replace

import torch
from torch import Tensor

from p2p import (
    Calls,
    Direct,
    EditFriendly,
    EditRequest,
    FixedSeed,
    Group,
    PromptToPrompt,
    SDEdit,
    StableDiffusion,
    edit,
    generate,
)
from p2p.engine import denoise_tree
from p2p.evaluations import plan_evaluations
from p2p.tree import build_tree
from p2p.word_readings import Reading, Watch, word_columns
from tests.p2p.inversion.inverting import SAMPLING, SOURCE, STEPS, SWAP, group


def test_sdedit_takes_the_image_itself_and_needs_no_inversion(model: StableDiffusion, image: Tensor) -> None:
    sdedit = [(SWAP, SDEdit(0.5))]
    counted: list[int] = []
    one = group(model, image, None, sdedit)
    [alone] = generate(model, [one], SAMPLING, Calls(64, counted.append))
    assert sum(counted) == plan_evaluations([one], STEPS, SAMPLING) == STEPS // 2 * 2
    [beside] = generate(model, [group(model, image, Direct(), [*sdedit, (SWAP, FixedSeed())])], SAMPLING)
    torch.testing.assert_close(alone.images[0], beside.images[0], rtol=0, atol=1.01 / 255)
    assert alone.reconstruction is None
    assert torch.equal(alone.source, image)
    assert torch.equal(beside.source, image)


def test_generated_and_inverted_groups_share_a_call_of_generate(
    model: StableDiffusion, image: Tensor
) -> None:
    swap = [(SWAP, PromptToPrompt(tau=0.2))]
    real = group(model, image, Direct(), swap)
    groups = [real, Group(SOURCE, 0, real.edits)]
    together = generate(model, groups, SAMPLING)
    for one, edited in zip(groups, together, strict=True):
        [alone] = generate(model, [one], SAMPLING)
        torch.testing.assert_close(edited.images[0], alone.images[0], rtol=0, atol=1.01 / 255)
    assert together[1].reconstruction is None


def test_edit_takes_an_image(model: StableDiffusion, image: Tensor) -> None:
    method = PromptToPrompt(tau=0.2)
    edited = edit(model, SOURCE, [(SWAP, method)], sampling=SAMPLING, image=image, inversion=Direct())
    [same] = generate(model, [group(model, image, Direct(), [(SWAP, method)])], SAMPLING)
    assert torch.equal(edited.images[0], same.images[0])


def test_a_group_apart_shares_nothing_with_its_source(model: StableDiffusion) -> None:
    [plain] = [FixedSeed().trajectory(EditRequest(SOURCE, SOURCE), model.tokenizers, STEPS)]
    trees = [{0: plain, 1: plain}, {0: plain, 1: plain}]
    assert [len(level) for level in build_tree(trees, STEPS)] == [2] * STEPS
    apart = build_tree(trees, STEPS, start=2, apart=[1])
    assert [len(level) for level in apart] == [3] * (STEPS - 2)
    assert [(node.group, node.parent, node.branches) for node in apart[0]] == [
        (0, 0, (0, 1)), (1, 1, (0,)), (1, 1, (1,)),
    ]  # fmt: skip
    assert [node.parent for node in apart[1]] == [0, 1, 2]


def test_steps_of_maps_count_from_the_first_of_the_schedule(model: StableDiffusion, image: Tensor) -> None:
    one = group(model, image, EditFriendly(skip=0.5), [(SWAP, FixedSeed())])
    words = [
        word_columns(prompt, [word], model.tokenizers) for prompt, word in ((SOURCE, "cat"), (SWAP, "dog"))
    ]
    readings = (Reading("16", (0, STEPS // 2)), Reading("16", (STEPS // 2, STEPS)))
    watch = Watch(words[0], words[1], readings)
    one = replace(one, edits=(replace(one.edits[0], watch=watch),))
    nodes, _, maps = denoise_tree(model, [one], SAMPLING)
    row = next(row for row, node in enumerate(nodes) if 1 in node.branches)
    not_run, run = ([float(m.sum()) for m in maps.read(row, nodes[row], watch, r)] for r in readings)
    assert not_run == [0, 0]
    assert min(run) > 0
