"""Z-Image's text: words in a template, padding to multiples of 32, what unlike lengths cannot do."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from p2p import (
    EditRequest,
    FixedSeed,
    FlowEdit,
    Group,
    Projections,
    PromptSwitch,
    PromptToPrompt,
    Sampling,
    SDEdit,
    ZImage,
    generate,
)
from p2p.alignment import encode, padded_length, refinement_mapper, replacement_mapper, word_tokens
from tests.p2p.families.tiny_z_image import TEXT, short_z_image

pytestmark = pytest.mark.xdist_group("z_image")

STEPS = 4
SOURCE = "a cat on a bench"
LONG = "a cat " + " ".join(["on a bench"] * 9)


@pytest.fixture(scope="module")
def model() -> ZImage:
    return short_z_image()


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (SOURCE, [[3], [4], [5], [6], [7]]),
        ("a chinchilla on a bench", [[3], [4, 5], [6], [7], [8]]),
        ("a {} dog", [[3], [4, 5, 6], [7]]),
    ],
)
def test_words_stand_where_the_encoder_has_them(model: ZImage, prompt: str, words: list[list[int]]) -> None:
    """Three tokens of the template stand before the prompt, five after it; padding is not encoded."""
    [tokenizer] = model.tokenizers
    assert word_tokens(prompt, tokenizer) == words
    encoding = encode(prompt, tokenizer)
    count = words[-1][-1] + 6
    assert encoding["special_tokens_mask"] == [1] * 3 + [0] * (count - 8) + [1] * 5
    assert encoding["padded"] == 32
    seen: list[Tensor] = []
    inputs = model.pipeline.text_encoder.get_input_embeddings()
    hook = inputs.register_forward_hook(lambda _, args, output: seen.append(args[0]))
    try:
        own = model.encode_prompt(prompt)
    finally:
        hook.remove()
    assert seen[0][0, :count].tolist() == encoding["input_ids"]
    assert own["tokens"] == count
    assert own["cap_feats"][:count].abs().sum(1).all()
    assert not own["cap_feats"][count:].any()


def test_the_refiner_mixes_what_stands_at_a_words_place(model: ZImage) -> None:
    """Another state at one place of the text is another at every place of the joint layers."""
    conditioning = {name: row[None] for name, row in model.encode_prompt(SOURCE).items()}
    states: list[Tensor] = []
    hook = model.denoiser.context_refiner[-1].register_forward_hook(
        lambda _, args, output: states.append(output[0])
    )
    latents = torch.zeros(1, *model.latent_shape, dtype=model.dtype)
    changed = conditioning["cap_feats"].clone()
    changed[0, 4] += 1
    try:
        with torch.no_grad():
            for feats in (conditioning["cap_feats"], changed):
                model.predict(latents, torch.tensor(500.0), {**conditioning, "cap_feats": feats})
    finally:
        hook.remove()
    moved = (states[1] - states[0]).abs().amax(1)
    assert len(moved) == 32
    assert (moved > 1e-6).all()
    assert moved.argmax() == 4


def words(count: int) -> str:
    """Return a prompt of so many tokens, those of the template included."""
    return " ".join(["a"] * (count - 8))


def test_padding_ends_at_a_multiple_of_32(model: ZImage) -> None:
    """A prompt that fills its multiple has no padding for another's to go to, or to read."""
    [tokenizer] = model.tokenizers
    assert [padded_length(words(n), tokenizer) for n in (9, 31, 32, 33, 64)] == [32, 32, 32, 64, 64]
    with pytest.raises(ValueError, match="has 65 tokens, allowed are 64"):
        encode(words(65), tokenizer)
    full, short = words(32), words(30)
    mapper, alphas = refinement_mapper(full, short, tokenizer)
    assert mapper[30:32].tolist() == [-1, -1]  # the target's padding keeps its own map
    assert not alphas[30:32].any()
    mapper, _ = refinement_mapper(short, words(31), tokenizer)
    assert mapper[31] == 31
    two, three = words(31), words(31)[:-1] + "chinchilla"  # a word of two tokens
    replaced = replacement_mapper(two, three, tokenizer)
    assert len(encode(three, tokenizer)["input_ids"]) == 32
    assert torch.equal(replaced[:32, :32].sum(1), torch.ones(32))  # nothing goes where there is no token
    assert replaced[31].argmax() == 31


TAKING: list[Any] = [
    PromptToPrompt(tau=0.2),
    PromptToPrompt(cross_replace_steps=0.0, self_replace_steps=0.5),
    Projections(0.5),
]
FREE: list[Any] = [
    PromptToPrompt(tau=1),
    Projections(0.0),
    FixedSeed(),
    PromptSwitch(0.5),
    SDEdit(0.5),
    FlowEdit(n_max=3),
]


@pytest.mark.parametrize("method", TAKING, ids=["maps", "self", "projections"])
@pytest.mark.parametrize("pair", [(SOURCE, LONG), (LONG, SOURCE)])
def test_maps_between_unlike_lengths_are_refused_when_an_edit_is_planned(
    model: ZImage, method: Any, pair: tuple[str, str]
) -> None:
    sizes = {SOURCE: 32, LONG: 64}
    message = (
        f"is padded to {sizes[pair[1]]} tokens and its source to {sizes[pair[0]]}, so that this model has"
    )
    with pytest.raises(ValueError, match=message) as refused:
        method.trajectory(EditRequest(*pair), model.tokenizers, STEPS)
    assert "\n" not in str(refused.value)


def test_edits_that_take_nothing_are_made_between_unlike_lengths(model: ZImage) -> None:
    edits = tuple(one.trajectory(EditRequest(SOURCE, LONG), model.tokenizers, STEPS) for one in FREE)
    blended = PromptToPrompt(tau=1).trajectory(
        EditRequest(SOURCE, LONG, blend_words=("cat", "bench")), model.tokenizers, STEPS
    )
    scaled = PromptToPrompt(tau=1, weights={"cat": 9.0}, weights_on="scores").trajectory(
        EditRequest(SOURCE, LONG), model.tokenizers, STEPS
    )
    [edited] = generate(model, [Group(SOURCE, 0, (*edits, blended, scaled))], Sampling(STEPS, 3.0))
    assert not torch.equal(edited.images[0], edited.images[-1])
    assert all((image - edited.source).abs().max() > 1 / 255 for image in edited.images)
    assert torch.equal(edited.images[0], edited.images[2])


def test_maps_of_a_method_of_ones_own_are_refused_before_a_step(model: ZImage) -> None:
    taking = PromptToPrompt(tau=0.2).trajectory(EditRequest(SOURCE, SOURCE), model.tokenizers, STEPS)
    edit = replace(taking, prompt=LONG)
    calls: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "predict", lambda *args: calls.append(args))
        with pytest.raises(ValueError, match="is padded to 64 tokens and its source to 32"):
            generate(model, [Group(SOURCE, 0, (edit,))], Sampling(STEPS, 3.0))
    assert calls == []
    assert TEXT == 64
