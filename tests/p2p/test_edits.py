"""PromptToPrompt's effective windows, its linear form against the materialised definition; `edit`'s words."""

import warnings
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from p2p import (
    Edited,
    EditRequest,
    FixedSeed,
    PromptToPrompt,
    Sampling,
    SDEdit,
    StableDiffusion,
    edit,
    heat_maps,
)
from p2p.alignment import equalizer
from p2p.attention.injection import BatchInjection, LayerAttention, inject_cross, inject_self
from p2p.attention.source_bank import SourceBank
from p2p.groups import Group
from p2p.operators import alignment_matrix

SOURCE, SWAP, ADD = "a cat on a bench", "a dog on a bench", "a striped cat on a bench"


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (PromptToPrompt(), (0.2, 0, 40, 0, 20)),
        (PromptToPrompt(tau=0.2), (0.2, 0, 40, 0, 20)),
        (PromptToPrompt(cross_replace_steps=0.8), (0.2, 0, 40, 0, 20)),
        (PromptToPrompt(tau=0), (0, 0, 50, 0, 20)),
        (PromptToPrompt(tau=1), (1, 0, 0, 0, 0)),
        (PromptToPrompt(tau=0.9), (0.9, 0, 5, 0, 5)),  # the window of self-attention is capped
        (PromptToPrompt(cross_replace_steps=1, self_replace_steps=0), (None, 0, 50, 0, 0)),
        (PromptToPrompt(cross_replace_steps=(0.2, 1.0)), (None, 10, 50, 0, 20)),
    ],
)
def test_records_carry_the_effective_windows(
    method: PromptToPrompt, expected: tuple[Any, ...], clip_tokenizer: Any
) -> None:
    record = method.trajectory(EditRequest(SOURCE, SWAP), (clip_tokenizer,), 50).record
    assert (
        record["tau"],
        *(record[k] for k in ("cross_start", "cross_end", "self_start", "self_end")),
    ) == expected


def test_equal_edits_have_equal_digests(clip_tokenizer: Any) -> None:
    def digest(method: Any, target: str = SWAP) -> str:
        return method.trajectory(EditRequest(SOURCE, target), (clip_tokenizer,), 50).digest()

    assert (
        digest(PromptToPrompt(tau=0.2))
        == digest(PromptToPrompt(cross_replace_steps=0.8))
        == digest(PromptToPrompt(operator="replace"))
    )
    assert digest(PromptToPrompt(tau=1)) == digest(PromptToPrompt(tau=1.0)) == digest(FixedSeed())
    assert digest(PromptToPrompt(tau=0.2, weights={"dog": 1.0})) == digest(PromptToPrompt(tau=0.2))
    different = [
        PromptToPrompt(tau=0.2),
        PromptToPrompt(tau=0.22),
        PromptToPrompt(operator="refine"),
        FixedSeed(),
        SDEdit(0.5),
        SDEdit(0.6),
    ]
    assert len({digest(method) for method in different}) == len(different)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"operator": "swap"}, "operator: 'swap' is not one of"),
        ({"tau": 0.2, "cross_replace_steps": 0.8}, "allowed is one of them"),
        ({"tau": 1.2}, "tau"),
        ({"self_replace_steps": -0.1}, "self_replace_steps"),
    ],
)
def test_bad_settings_are_errors_at_construction(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptToPrompt(**arguments)


@pytest.mark.parametrize("strength", [0, -0.1, 1.1])
def test_strengths_outside_the_range_are_errors(strength: float) -> None:
    with pytest.raises(ValueError, match="strength"):
        SDEdit(strength)


def test_a_strength_without_a_step_is_an_error(clip_tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"strength: 0.01 of 50 steps is no step"):
        SDEdit(0.01).trajectory(EditRequest(SOURCE, SWAP), (clip_tokenizer,), 50)
    assert SDEdit(0.58).trajectory(EditRequest(SOURCE, SWAP), (clip_tokenizer,), 50).start == 22


def test_a_weighted_word_that_is_not_there_is_an_error(clip_tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="horse"):
        PromptToPrompt(weights={"horse": 2}).trajectory(EditRequest(SOURCE, SWAP), (clip_tokenizer,), 50)


def test_a_blend_weight_re_weights_the_target_s_blend_words_and_parts_no_table(clip_tokenizer: Any) -> None:
    request = EditRequest(SOURCE, SWAP, blend_words=("cat", "dog"))
    blended = PromptToPrompt(blend_weight=2).trajectory(request, (clip_tokenizer,), 50)
    weighted = PromptToPrompt(weights={"dog": 2}).trajectory(request, (clip_tokenizer,), 50)
    assert blended.digest() == weighted.digest()
    assert (blended.record["weights"], blended.record["blend"]["weight"]) == ({}, 2.0)
    assert "weight" not in weighted.record["blend"]
    own = PromptToPrompt(blend_weight=2, weights={"dog": 3}).trajectory(request, (clip_tokenizer,), 50)
    assert own.digest() != blended.digest()  # the word's own factor is the one
    plain, without = (EditRequest(SOURCE, SWAP), PromptToPrompt(blend_weight=2))
    same = without.trajectory(plain, (clip_tokenizer,), 50)
    assert same.digest() == PromptToPrompt().trajectory(plain, (clip_tokenizer,), 50).digest()
    with pytest.raises(ValueError, match="blend_weight: 'two' is not a finite number"):
        PromptToPrompt(blend_weight="two")  # type: ignore[arg-type]


def test_per_word_windows_gate_their_own_tokens_only(clip_tokenizer: Any) -> None:
    method = PromptToPrompt(cross_replace_steps={"default_": 1.0, "dog": 0.4})
    injections = method.trajectory(EditRequest(SOURCE, SWAP), (clip_tokenizer,), 50).injections
    early, late = injections[0], injections[30]
    assert early is not None
    assert late is not None
    assert early.cross is not None
    assert late.cross is not None
    assert not early.cross.own_share.any()
    assert late.cross.own_share.nonzero().flatten().tolist() == [2]  # "dog" stands after BOS and "a"
    assert not late.cross.source_mix[:, 2].any()


def materialised(query: Tensor, key: Tensor) -> Tensor:
    return (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)


@pytest.mark.parametrize(
    ("operator", "target"), [("replace", SWAP), ("refine", ADD), ("refine", SWAP), ("identity", SOURCE)]
)
@pytest.mark.parametrize("gated", [False, True])
def test_the_linear_form_equals_mixing_probability_maps(
    operator: Any, target: str, gated: bool, clip_tokenizer: Any
) -> None:
    """The definition (semantics of google/prompt-to-prompt): align the source's map, scale it, gate it per
    token.
    """
    matrix, aligned = alignment_matrix(operator, SOURCE, target, clip_tokenizer)
    word = target.split()[-1]
    weights = {word: -1.5}
    steps = {"default_": 1.0, word: 0.0} if gated else 1.0
    method = PromptToPrompt(
        operator="auto" if operator == "identity" else operator, cross_replace_steps=steps, weights=weights
    )
    injection = method.trajectory(EditRequest(SOURCE, target), (clip_tokenizer,), 50).injections[0]
    assert injection is not None
    assert injection.cross is not None
    rng = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 3, n, 8, generator=rng, dtype=torch.float64) for n in (10, 77))
    value = torch.randn(2, 3, 77, 8, generator=rng, dtype=torch.float64)
    source, own = materialised(query, key)
    gate = torch.ones(77, dtype=torch.float64)
    if gated:
        gate[equalizer(target, weights, clip_tokenizer) != 1] = 0
    replaced = (source @ matrix.double()) * aligned + own * (1 - aligned)
    edited = replaced * equalizer(target, weights, clip_tokenizer) * gate + own * (1 - gate)
    expected = torch.stack([source @ value[0], edited @ value[1]])
    batch = _batch(injection.cross.source_mix, injection.cross.own_share)
    output = inject_cross(LayerAttention("layer", query, key, value, 8**-0.5), batch)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)


def test_self_attention_takes_the_sources_map_in_small_layers_only() -> None:
    rng = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 16, 8, generator=rng, dtype=torch.float64)
    source, _ = materialised(query, key)
    batch = _batch(torch.eye(16), torch.zeros(16))
    output = inject_self(LayerAttention("layer", query, key, value, 8**-0.5), batch)
    torch.testing.assert_close(output[1], source @ value[1], rtol=0, atol=1e-12)
    query = torch.randn(2, 4, 17, 8, generator=rng, dtype=torch.float64)
    output = inject_self(LayerAttention("large", query, key, value, 8**-0.5), batch)
    torch.testing.assert_close(output[1], materialised(query, key)[1] @ value[1], rtol=0, atol=1e-12)


def test_the_fields_of_sampling_are_edits_own_words(tiny_model: StableDiffusion) -> None:
    edits = [(SWAP, PromptToPrompt(tau=0.5)), (SWAP, FixedSeed())]
    asked: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3, "negative_prompt": "a bench"}
    given = edit(tiny_model, SOURCE, edits, 1, **asked)
    for sampling, own in (
        (Sampling(**asked), {}),
        (Sampling(num_inference_steps=2, guidance_scale=9, negative_prompt="a bench"), {"guidance_scale": 3}),
    ):
        same = edit(tiny_model, SOURCE, edits, 1, sampling, **own)
        assert torch.equal(given.source, same.source)
        assert all(map(torch.equal, given.images, same.images))
    maps = heat_maps(tiny_model, SOURCE, ["cat"], num_inference_steps=2)
    assert {steps for _, steps in maps.source.maps} == {(0, 2)}
    assert "tensor" not in repr(maps)


@pytest.mark.parametrize("ask", [edit, heat_maps])
def test_a_word_that_edit_does_not_know_is_told_what_it_knows(ask: Any, tiny_model: StableDiffusion) -> None:
    told = ", ".join(field.name for field in fields(Sampling))
    with pytest.raises(TypeError, match=rf"^guidance: no parameter, nor a field of Sampling: {told}$"):
        ask(tiny_model, SOURCE, [], guidance=5)
    with pytest.raises(ValueError, match="num_inference_steps: 0 is not a whole number"):
        ask(tiny_model, SOURCE, [], num_inference_steps=0)
    with pytest.raises(TypeError, match=r"sampling: \{'num_inference_steps': 5\} is no Sampling"):
        ask(tiny_model, SOURCE, [], sampling={"num_inference_steps": 5})


def test_pictures_of_pillow_go_in_and_come_out(tiny_model: StableDiffusion) -> None:
    height, width = tiny_model.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    picture, edits = Image.fromarray(pixels), [(SWAP, SDEdit(0.5))]
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    asked: dict[str, Any] = {"num_inference_steps": 2}
    given, same = (edit(tiny_model, SOURCE, edits, image=one, **asked) for one in (picture, tensor))
    assert torch.equal(given.images[0], same.images[0])
    source, edited = given.to_pil()
    np.testing.assert_array_equal(np.asarray(source), pixels)
    shown = torch.from_numpy(np.array(edited)).permute(2, 0, 1).float() / 255
    assert torch.equal(shown, given.images[0])
    assert repr(given) == f"Edited(source, 1 image of {width}x{height})"
    inverted = Edited(given.source, given.images, given.source)
    assert repr(inverted) == f"Edited(source, 1 image, reconstruction of {width}x{height})"


def test_a_picture_that_is_changed_when_it_is_read_is_warned_of(tiny_model: StableDiffusion) -> None:
    height, width = tiny_model.image_size
    clear = Image.new("RGBA", (width, height), (9, 9, 9, 0))
    with pytest.warns(UserWarning, match="image: transparency composited on white") as told:
        given = edit(tiny_model, SOURCE, [(SWAP, SDEdit(0.5))], image=clear, num_inference_steps=2)
    assert told[0].filename == __file__
    assert given.source.eq(1).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        edit(tiny_model, SOURCE, [], image=clear.convert("L"))
    with pytest.raises(TypeError, match="image: is str, allowed is a tensor or a picture of Pillow's"):
        edit(tiny_model, SOURCE, [], image="cat.png")  # type: ignore[arg-type]


def _batch(mix: Tensor, own: Tensor) -> BatchInjection:
    """Row 1 edited, row 0 its source."""
    row, slot, none = torch.tensor([1]), torch.tensor([0]), torch.empty(0, dtype=torch.int64)
    whole = not own.any()
    return BatchInjection(
        source_rows=torch.tensor([0]),
        replaced_rows=row if whole else none,
        replaced_slots=slot if whole else none,
        replaced_mix=mix[None].double(),
        mixed_rows=none if whole else row,
        mixed_slots=none if whole else slot,
        mixed_mix=mix[None].double(),
        mixed_own=own[None].double(),
        self_rows=row,
        self_slots=slot,
        self_max_pixels=(16,),
        edited_rows=row,
        edited_slots=slot,
        any_cross=True,
        largest_self=16,
        bank=SourceBank(),
    )


@pytest.mark.parametrize("seed", [-1, 1.0, True, 2**70, "0", None])
def test_a_seed_that_is_none_is_refused(seed: Any) -> None:
    """-1 is a random one in other tools, and was the same as 2^64 - 1 here."""
    with pytest.raises(ValueError, match=r"seed: .* is not a whole number in \[0, 2\^63\)"):
        Group("a cat", seed, ())


def test_numpy_s_whole_numbers_are_seeds(tiny_model: StableDiffusion) -> None:
    images = [
        edit(tiny_model, "a cat", [("a dog", SDEdit(0.5))], seed, num_inference_steps=2).images[0]
        for seed in (3, np.int64(3))
    ]
    torch.testing.assert_close(*images, rtol=0, atol=0)
