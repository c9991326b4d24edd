"""Blended words that are not in their prompts, as the published code treats them, up to the image."""

import json
from pathlib import Path

import pytest
import torch

from experiments.datasets.blended import blended_words
from experiments.datasets.pie_bench import PieBench
from p2p import Edited, EditRequest, Group, PromptToPrompt, Sampling, StableDiffusion, generate
from tests.experiments.test_datasets_pie import ROW, data_set

SOURCE, TARGET = "a white cat, sitting on a mat", "a white dog sitting on a mat"


@pytest.mark.parametrize(
    ("text", "words", "otherwise"),
    [
        ("", None, False),
        ("white dog", ("white", "dog"), False),
        ("mat mat", ("mat", "mat"), False),
        ("puppy dog", (None, "dog"), True),
        ("white lion", ("white", None), True),
        ("cat puppy", (None, None), True),  # "cat," is another word
        ("White Dog", (None, None), True),
        ("white cat, dog", ("white", None), True),  # the first two words, where we read "white cat,"
        ("white  dog", ("white", None), True),  # parted at single blanks: the second is empty
        (" white dog", (None, "white"), True),
        ("('puppy', 'dog')", (None, "dog"), True),
        ('["white,lion"]', ("white", None), True),
    ],
)
def test_words_are_read_as_published(
    text: str, words: tuple[str | None, str | None] | None, otherwise: bool
) -> None:
    assert blended_words(text, SOURCE, TARGET, "published") == (words, otherwise)


@pytest.mark.parametrize("text", ["cat", "(1)", '["cat,dog", "mat,mat"]'])
def test_what_the_published_code_fails_at_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="without which the published code fails"):
        blended_words(text, SOURCE, TARGET, "published")


def test_a_data_set_tells_which_pairs_it_concerns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = data_set(tmp_path, a=ROW, b={**ROW, "blended_word": "bike bicycle"})
    pairs = PieBench(path=folder, unusable_blend_words="published").load()
    assert [pair.blend_words for pair in pairs] == [("bicycle", "bicycle"), (None, "bicycle")]
    assert capsys.readouterr().out.splitlines()[-1] == "pie_bench: 1 of 2 pairs bounded as published: b"


def made(model: StableDiffusion, words: tuple[str | None, str | None] | None, weight: float | None) -> Edited:
    method = PromptToPrompt(
        "refine", cross_replace_steps=0.4, self_replace_steps=0.6, blend_weight=weight, blend_threshold=0.5
    )
    request = EditRequest(SOURCE, TARGET, blend_words=words)
    edit = method.trajectory(request, model.tokenizers, 6)
    [edited] = generate(model, [Group(SOURCE, 0, (edit,))], Sampling(num_inference_steps=6))
    return edited


def test_without_both_words_the_edit_is_its_source(tiny_model: StableDiffusion) -> None:
    edited = made(tiny_model, (None, None), 2.0)
    assert torch.equal(edited.images[0], edited.source)
    assert not torch.equal(made(tiny_model, None, 2.0).images[0], edited.source)


def test_one_word_bounds_the_edit_and_the_targets_alone_weighs(tiny_model: StableDiffusion) -> None:
    source_alone, target_alone = (made(tiny_model, words, 2.0) for words in (("mat", None), (None, "dog")))
    unweighted = made(tiny_model, (None, "dog"), None)
    assert torch.equal(source_alone.images[0], made(tiny_model, ("mat", None), None).images[0])
    assert not torch.equal(target_alone.images[0], unweighted.images[0])
    request = EditRequest(SOURCE, TARGET, blend_words=(None, "dog"))
    edit = PromptToPrompt(blend_weight=2.0).trajectory(request, tiny_model.tokenizers, 6)
    assert edit.blend is not None
    assert not edit.blend.source_words.any()
    assert edit.blend.target_words[:, 0].nonzero().tolist() == [[3]]
    assert edit.record["blend"]["source_words"] is None
    assert json.loads(json.dumps(edit.record["blend"]))["weight"] == 2.0
