"""Prompt-to-Prompt by projections: against loops written by hand over diffusers' transformers with processors
of their own, as branches of a tree, and in chosen blocks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from p2p import (
    Calls,
    EditRequest,
    FixedSeed,
    Flux,
    Group,
    Inversion,
    Model,
    Projections,
    PromptSwitch,
    PromptToPrompt,
    RFSolver,
    StableDiffusion,
    generate,
)
from p2p.engine import source_paths, tree_latents
from p2p.evaluations import plan_evaluations
from tests.p2p.families.formed import Sizes
from tests.p2p.inversion.flow_models import (
    ADD,
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

pytestmark = pytest.mark.xdist_group("projections")


@pytest.fixture(scope="module", params=ALL)
def model(request: pytest.FixtureRequest) -> Model:
    return tiny_flow_model(request.param)


def group(model: Model, edits: Sequence[tuple[str, Any]], seed: int = 3) -> Group:
    made = (m.trajectory(EditRequest(SOURCE, target), model.tokenizers, STEPS) for target, m in edits)
    return Group(SOURCE, seed, tuple(made))


@dataclass
class ProjectionTape:
    """The source's projections by layer, kept from one call and put into the next."""

    layers: Sequence[str]
    method: Projections
    does: str = "nothing"
    kept: dict[str, tuple[list[Tensor], list[Tensor]]] = field(default_factory=dict)

    def __call__(self, layer: str, image: list[Tensor], text: list[Tensor]) -> None:
        """Keep queries, keys and values, or put what is shared into the lists, in place."""
        if layer in self.layers and self.does == "keep":
            self.kept[layer] = list(image), list(text)
        if layer in self.layers and self.does == "take":
            of_image, of_text = self.kept[layer]
            heads = slice(None) if self.method.heads is None else self.method.heads
            for place, name in enumerate(("queries", "keys", "values")):
                if name in self.method.share:
                    image[place] = image[place].clone()
                    image[place][:, heads] = of_image[place][:, heads]
            if "text_values" in self.method.share:
                text[2] = text[2].clone()
                text[2][:, heads] = of_text[2][:, heads]

    def maps(self, layer: str, scores: Tensor) -> Tensor:
        """Return the maps of scores (rows, heads, queries, keys)."""
        return scores.softmax(-1)


@torch.no_grad()
def by_hand(model: Model, layers: Sequence[str], window: range, method: Projections) -> tuple[Tensor, Tensor]:
    """Return the latents of source and target after all steps."""
    velocity = velocity_of(model)
    source = target = model.draw_noise([torch.Generator().manual_seed(3)])
    layers_of = {name.rpartition(".att")[0]: name for name in model.attention_layers if ".attn2." not in name}
    tape = ProjectionTape([layers_of[layer] for layer in layers], method)
    with taped(model, tape):

        def guided(latents: Tensor, sigma: float, prompt: str, does: str) -> Tensor:
            tape.does = does
            if model.guidance_embedded:
                return velocity(latents, sigma, prompt, GUIDANCE)
            conditional = velocity(latents, sigma, prompt, 1)
            tape.does = "nothing"
            unconditional = velocity(latents, sigma, "", 1)
            return with_guidance(model.pipeline, unconditional, conditional, GUIDANCE)

        for step, (here, there) in enumerate(pairwise(levels(model))):
            of_source = guided(source, here, SOURCE, "keep")
            of_target = guided(target, here, SWAP, "take" if step in window else "nothing")
            source, target = source + (there - here) * of_source, target + (there - here) * of_target
    return source[0], target[0]


CASES: dict[str, list[tuple[Projections, Sequence[str], range]]] = {
    family: [
        (Projections(0.4), EVERY[family], range(2)),
        (Projections((0.2, 0.8), ALL[family]), EVERY[family], range(1, 4)),
        (Projections(1.0, f"{ALL[family][0].split('-')[0]}-1"), EVERY[family][1:2], range(5)),
    ]
    for family in ALL
}
CASES["sd3"].append((Projections(0.6, ["double-2", "double-0"]), EVERY["sd3"][::2], range(3)))
CASES["flux"].append((Projections(0.6, ["single-0"]), EVERY["flux"][2:], range(3)))
CASES["flux2_klein"].append((Projections(0.6, ["single-0"]), EVERY["flux2_klein"][2:], range(3)))
CASES["z_image"].append((Projections(0.6, ["single-0"]), EVERY["z_image"][:1], range(3)))
CASES["qwen_image"].append((Projections(0.6, ["double-0"]), EVERY["qwen_image"][:1], range(3)))
LONE = {"sd3": "double-1", "qwen_image": "double-0"}
for family in ALL:
    one = LONE.get(family, "single-0")
    layer = EVERY[family][-1 if family in ("flux", "flux2_klein") else int(one[-1])]
    CASES[family] += [
        (Projections(0.6, one, "values"), [layer], range(3)),
        (Projections(0.6, share=["values", "keys"]), EVERY[family], range(3)),
        (Projections((0.2, 0.6), one, ["text_values", "values"]), [layer], range(1, 3)),
        (Projections(0.6, heads=[1]), EVERY[family], range(3)),
        (Projections(0.6, one, ["values", "text_values", "keys"], [0]), [layer], range(3)),
    ]


def each_case() -> Iterator[Any]:
    """Yield every case of every family: all of Flux.2's and two of the others' are fast."""
    for family in ALL:
        for case in range(9):
            fast = family == "flux2_klein" or case in (0, 8) or (family, case) == ("sd3", 3)
            yield pytest.param(family, case, marks=() if fast else pytest.mark.slow)


@pytest.mark.parametrize(("model", "case"), list(each_case()), indirect=["model"])
def test_it_equals_a_loop_over_the_transformer(model: Model, case: int) -> None:
    method, layers, window = CASES[family_of(model)][case]
    expected = torch.stack(by_hand(model, layers, window, method))
    for max_batch in (rows(model), 64):  # the source in an earlier call than its edit, or in the same
        one = group(model, [(SWAP, method), (SWAP, FixedSeed())])
        ours = tree_latents(model, [one], SAMPLING, Calls(max_batch))
        assert_close(torch.stack([ours[0, 0], ours[0, 1]]), expected, rtol=0, atol=ROUNDED)
        assert (ours[0, 1] - ours[0, 0]).abs().max() > 1e-2
        assert (ours[0, 1] - ours[0, 2]).abs().max() > 10 * ROUNDED


@pytest.mark.usefixtures("padded_calls")
def test_a_compiled_model_makes_the_same_edit(model: Model) -> None:
    """Steps in which a row takes projections are not compiled; those after them are."""
    one = group(model, [(SWAP, Projections(0.4)), (SWAP, PromptToPrompt(tau=0.2))])
    plain, compiled = (tree_latents(m, [one], SAMPLING) for m in (model, replace(model, compile=True)))
    for branch in (1, 2):
        assert_close(compiled[0, branch], plain[0, branch], rtol=0, atol=ROUNDED)


def test_at_share_0_it_is_the_fixed_seed_and_for_equal_prompts_the_source(model: Model) -> None:
    methods = [Projections(0.0), Projections((0.4, 0.4)), FixedSeed()]
    one = group(model, [(SWAP, method) for method in methods])
    assert len({edit.digest() for edit in one.edits}) == 1
    assert plan_evaluations([one], STEPS, SAMPLING, model.guidance_embedded) == 2 * STEPS * rows(model)
    [edited] = generate(model, [one], SAMPLING)
    assert all(torch.equal(image, edited.images[-1]) for image in edited.images)
    [same] = generate(model, [group(model, [(SOURCE, Projections(1.0))])], SAMPLING)
    assert torch.equal(same.images[0], same.source)


def test_a_sweep_of_shares_shares_its_first_steps(model: Model) -> None:
    shares = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    sweep = group(model, [(SWAP, Projections(share)) for share in shares])
    planned = plan_evaluations([sweep], STEPS, SAMPLING, model.guidance_embedded)
    # The source, the edit that takes throughout, and what leaves it after 0, 1, 2, 3 and 4 steps.
    assert planned == rows(model) * (5 + 5 + 5 + 4 + 3 + 2 + 1)
    assert len({edit.digest() for edit in sweep.edits}) == len(shares)


def edits_of(model: Model) -> list[tuple[str, Any]]:
    stream = ALL[family_of(model)][0].split("-")[0]
    return [
        (SWAP, Projections(0.2)),
        (SWAP, Projections(0.6)),
        (SWAP, Projections(0.6, f"{stream}-0", "values", "no-0")),
        (ADD, Projections((0.2, 1.0), [f"{stream}-1"])),
        (SWAP, PromptToPrompt(tau=0.4)),
        (SWAP, FixedSeed()),
        (ADD, PromptSwitch(0.4)),
    ]


@pytest.mark.parametrize(
    "model",
    [one if one == "z_image" else pytest.param(one, marks=pytest.mark.slow) for one in ALL],
    indirect=True,
)
def test_beside_other_edits_and_in_any_calls_it_is_the_same(model: Model) -> None:
    assert_the_same_in_any_calls(model)


@pytest.mark.parametrize(
    "family", ["qwen_image", *(pytest.param(f, marks=pytest.mark.slow) for f in ALL if f != "qwen_image")]
)
def test_an_edit_of_a_picture_is_the_same_in_any_calls(family: str) -> None:
    assert_the_same_in_any_calls(tiny_flow_model(family), RFSolver())


def assert_the_same_in_any_calls(model: Model, inversion: Inversion | None = None) -> None:
    """Beside other edits, of another source too, an edit is what it is alone, and costs what was planned."""
    picture = torch.linspace(0, 1, 3 * 32 * 32).reshape(3, 32, 32)
    edits = edits_of(model)
    groups = [group(model, edits), replace(group(model, edits[:4], seed=1), source_prompt="a red cat")]
    if inversion:
        groups = [replace(one, image=lambda: picture, inversion=inversion) for one in groups]
    paths = source_paths(model, groups, SAMPLING)
    alone = {
        (g, branch): tree_latents(model, [replace(one, edits=(edit,))], SAMPLING, paths=[paths[g]])[0, 1]
        for g, one in enumerate(groups)
        for branch, edit in enumerate(one.edits[:4], start=1)
    }
    planned = plan_evaluations(groups, STEPS, SAMPLING, model.guidance_embedded)
    for max_batch in (2, 6, 64):
        counted: list[int] = []
        together = tree_latents(model, groups, SAMPLING, Calls(max_batch, counted.append), paths)
        for key, latents in alone.items():
            assert_close(together[key], latents, rtol=0, atol=ROUNDED)
        made = planned - (2 * inversion.evaluations(SAMPLING) if inversion else 0)
        assert sum(counted) == made
    assert len({float(latents.sum()) for latents in together.values()}) == len(together)


def test_named_blocks_are_those_and_all_of_them_are_null(model: Model) -> None:
    one = ALL[family_of(model)][0].split("-")[0]
    named: list[Any] = [None, ALL[family_of(model)], f"{one}-0", f"{one}-1"]
    named += [[f"{one}-0", f"{one}-1"]] if len(EVERY[family_of(model)]) > 2 else []
    latents = tree_latents(
        model, [group(model, [(SWAP, Projections(0.6, blocks)) for blocks in named])], SAMPLING
    )
    assert_close(latents[0, 1], latents[0, 2], rtol=0, atol=ROUNDED)
    assert all(
        (latents[0, i] - latents[0, j]).abs().max() > 1e-4 for i, j in pairwise(range(2, len(named) + 1))
    )


def test_no_map_is_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_flow_model("flux")
    large = Flux(model.pipeline, 32, 32, height=128, width=128)
    predict, sizes = large.predict, Sizes()

    def watched(*args: Any) -> Tensor:
        with sizes:
            return predict(*args)

    monkeypatch.setattr(large, "predict", watched)
    tree_latents(large, [group(large, [(SWAP, Projections(1.0))])], SAMPLING)
    assert 0 < sizes.largest < large.pixels(32) ** 2


def test_what_is_shared_is_part_of_what_an_edit_is_and_its_order_is_not(
    calm_model: StableDiffusion,
) -> None:
    def taken(share: Any) -> str:
        made = Projections(0.4, share=share).trajectory(
            EditRequest(SOURCE, SWAP), calm_model.tokenizers, STEPS
        )
        [layers] = made.layers
        return layers.key

    assert taken(["keys", "queries"]) == taken(("queries", "keys")) == "projections all"
    assert taken("values") == taken(["values"])
    assert taken(["text_values", "values"]) == taken(["values", "text_values"])
    names = ["queries", "keys", "values", "text_values"]
    sets = [one for size in range(1, 5) for one in combinations(names, size)]
    assert len({taken(one) for one in sets}) == len(sets)


@pytest.mark.parametrize(
    ("share", "message"),
    [
        ([], r"share: \[\] names nothing to take, allowed are queries, keys, values, text_values, each once"),
        ("value", r"share: 'value' of \['value'\] cannot be taken, allowed are queries"),
        (["keys", "keys"], r"share: 'keys' of \['keys', 'keys'\] cannot be taken"),
        (["keys", ["values"]], r"share: \['values'\] of"),
        (None, "share: None names nothing"),
        (2, "share: 2 names nothing"),
    ],
)
def test_what_cannot_be_shared_is_one_line(share: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Projections(share=share)


@pytest.mark.parametrize("steps", [-0.1, 1.1, float("nan"), "half", [0.6, 0.2], [0.1], True])
def test_a_share_that_is_none_is_named(steps: Any) -> None:
    with pytest.raises(ValueError, match="^replace_steps"):
        Projections(steps)


def test_a_share_that_comes_to_no_step_is_an_error(calm_model: StableDiffusion) -> None:
    """20 % of 4 steps would be none, so that the edit were the fixed seed's under another name."""
    request = EditRequest(SOURCE, SWAP)
    message = "replace_steps: 0.2 of 4 steps is no step, allowed are 0 and windows of 1/4 or more"
    with pytest.raises(ValueError, match=message):
        Projections(0.2).trajectory(request, calm_model.tokenizers, 4)
    with pytest.raises(ValueError, match=r"replace_steps: \(0.5, 0.6\) of 4 steps is no step"):
        Projections((0.5, 0.6)).trajectory(request, calm_model.tokenizers, 4)
    taken = Projections(0.29).trajectory(request, calm_model.tokenizers, 100).injections
    assert [step for step, one in enumerate(taken) if one] == list(range(29))
