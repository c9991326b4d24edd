"""Blocks of joint attention by name: which names there are, which edits are one, what a model lacks."""

from typing import Any

import pytest

from p2p import Calls, EditRequest, FixedSeed, Group, Model, Projections, Sampling, StableDiffusion, generate
from tests.p2p.inversion.flow_models import SOURCE, SWAP, tiny_flow_model

pytestmark = pytest.mark.xdist_group("joint_blocks")

STEPS = 5


def test_names_in_any_order_are_one_edit(calm_model: StableDiffusion) -> None:
    def digest(blocks: Any) -> str:
        request = EditRequest(SOURCE, SWAP)
        return Projections(0.4, blocks).trajectory(request, calm_model.tokenizers, STEPS).digest()

    spelled = [
        ["double-0..7", "single-32..37"],
        ["single-32..37", "double-0..7"],
        ["double-4..7", "double-3", "double-0..2", "single-32..36", "single-37"],
        ("double-0..7", "single-32..37"),
    ]
    assert len({digest(one) for one in spelled}) == 1
    assert digest("double-3") == digest(["double-3"]) == digest(["double-3..3"])
    others = [None, "double-0..7", "double-0..8", "single-0..7", ["double-0", "double-2"], "double-0..2"]
    assert len({digest(one) for one in others}) == len(others)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (
            [],
            r"blocks: \[\] names no block, allowed are null \(all\) and double-3, double-0..7 and",
        ),
        (
            "triple-3",
            "blocks: 'triple-3' is no block, allowed are such as double-3, double-0..7 and single-32",
        ),
        (["double-0", "double"], "blocks: 'double' is no block"),
        ("double-0-7", "blocks: 'double-0-7' is no block"),
        ("double-0..", "blocks: 'double-0..' is no block"),
        ("double-1.5", "blocks: 'double-1.5' is no block"),
        ("double-07", "blocks: 'double-07' is no block"),
        ("double--1", "blocks: 'double--1' is no block"),
        ("double-0..7 ", "blocks: 'double-0..7 ' is no block"),
        ("double-\u0663", "blocks: 'double-\u0663' is no block"),
        ("double-" + "9" * 5000, "blocks: 'double-9999"),
        ([3], "blocks: 3 is no block"),
        (3, "blocks: 3 names no block"),
        ("double-7..3", r"blocks: 'double-7..3' runs backwards, allowed is double-3..7$"),
        (["double-0..4", "double-4"], "blocks: double-4 is named twice in double-0..4, double-4$"),
        (["double-2", "double-0..9"], "blocks: double-2 is named twice in double-2, double-0..9$"),
    ],
)
def test_what_names_no_block_is_one_line(blocks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as refused:
        Projections(blocks=blocks)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("family", "blocks", "message"),
    [
        ("sd3", "single-0", "blocks: single-0 is no block of this model, allowed are double-0..2$"),
        ("sd3", "double-1..5", "blocks: double-3 is no block of this model, allowed are double-0..2$"),
        (
            "flux",
            "double-2",
            "blocks: double-2 is no block of this model, allowed are double-0..1 and single-0$",
        ),
        (
            "flux",
            ["double-0", "single-1"],
            "blocks: single-1 is no block of this model, allowed are double-0..1",
        ),
        ("unet", None, "blocks: only a transformer whose image and text share one softmax has them, allowed"),
    ],
)
def test_a_block_that_is_not_there_is_an_error_before_anything_is_computed(
    calm_model: StableDiffusion, family: str, blocks: Any, message: str
) -> None:
    model: Model = calm_model if family == "unet" else tiny_flow_model(family)
    counted: list[int] = []
    request = EditRequest(SOURCE, SWAP)
    methods = (FixedSeed(), Projections(0.4, blocks))
    edits = tuple(method.trajectory(request, model.tokenizers, STEPS) for method in methods)
    with pytest.raises(ValueError, match=f"^{message}"):
        generate(model, [Group(SOURCE, 3, edits)], Sampling(STEPS), Calls(64, counted.append))
    assert counted == []
