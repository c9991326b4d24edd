"""Tokens of several vectors (textual inversion): words after one stand where the pipeline encodes them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.loaders import TextualInversionLoaderMixin
from safetensors.torch import save_file
from torch.testing import assert_close

from p2p import EditRequest, FixedSeed, ModelSpec, PromptToPrompt, StableDiffusion
from p2p.alignment import (
    Tokenizer,
    check_prompt,
    equalizer,
    refinement_mapper,
    replacement_mapper,
    word_column,
    word_indices,
    word_tokens,
)
from p2p.families import FAMILIES, family_of
from tests.p2p.families.test_flux import tiny_pipeline as tiny_flux_pipeline
from tests.p2p.test_words import SlowTokenizer
from tests.tiny_pipelines import NO_CHECKER

FROG, CAT = "a <frog> in the snow", "a cat in the snow"


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline with `<frog>` of three vectors and `<fly>` of one, saved."""
    place = tmp_path_factory.mktemp("frog")
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder, **NO_CHECKER)
    for token, vectors in (("<frog>", 3), ("<fly>", 1)):
        save_file({token: torch.randn(vectors, 32)}, place / "token.safetensors")
        pipeline.load_textual_inversion(place / "token.safetensors", token=token)
    pipeline.save_pretrained(place / "pipeline")
    return place / "pipeline"


@pytest.fixture(scope="module")
def spec(folder: Path) -> ModelSpec:
    return ModelSpec("frog", str(folder), 16, 16, device="cpu")


@pytest.fixture(scope="module")
def model(spec: ModelSpec) -> StableDiffusion:
    model = spec.load()
    assert isinstance(model, StableDiffusion)
    return model


@pytest.fixture(params=["planned", "loaded"])
def tokenizer(request: pytest.FixtureRequest, spec: ModelSpec) -> Tokenizer:
    """The tokenizer that a plan reads, and the one of the loaded model."""
    if request.param == "planned":
        [planned] = spec.load_tokenizers()
        return planned
    [loaded] = request.getfixturevalue("model").tokenizers
    return loaded


def encoded(pipeline: Any, prompt: str) -> list[int]:
    """Return the ids that the pipeline's text encoder is given, up to the end of the text."""
    seen: list[torch.Tensor] = []
    encoder = pipeline.text_encoder
    hook = encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    pipeline.encode_prompt([prompt], "cpu", 1, False)
    hook.remove()
    ids: list[int] = seen[0][0].tolist()
    return ids[: ids.index(49407)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_expands_tokens_where_its_pipeline_does(name: str) -> None:
    family = family_of(name)
    assert family.expands_tokens == issubclass(family.pipeline_class(), TextualInversionLoaderMixin)


def test_words_stand_where_the_pipeline_encodes_them(tokenizer: Tokenizer, model: StableDiffusion) -> None:
    assert word_indices(FROG, "<frog>", tokenizer) == [2, 3, 4]
    assert word_indices(FROG, "snow", tokenizer) == [7]
    twice = "a <fly> on <frog>, the <frog>'s chinchilla"
    assert word_tokens(twice, tokenizer) == [
        [1], [2], [3], [4, 5, 6, 7], [8], [9, 10, 11, 12], [13, 14, 15]
    ]  # fmt: skip
    for prompt, word in ((FROG, "snow"), (twice, "on"), (twice, "the"), ("no frog in snow", "snow")):
        ids = encoded(model.pipeline, prompt)
        [own] = model.pipeline.tokenizer(word, add_special_tokens=False).input_ids
        assert word_indices(prompt, word, tokenizer) == [ids.index(own)]


def test_without_offsets_it_is_the_same(model: StableDiffusion) -> None:
    slow = SlowTokenizer(model.pipeline.tokenizer)
    slow.tokenize, slow.added_tokens_encoder = slow.fast.tokenize, slow.fast.added_tokens_encoder
    slow.decode = lambda ids: slow.fast.decode(ids).removesuffix("</w>")  # a fast one may keep the mark
    [own] = StableDiffusion.aligned_tokenizers({"tokenizer": slow})
    assert word_tokens("a <frog>, in snow", own) == [[1], [2, 3, 4, 5], [6], [7]]


def test_mappers_columns_and_weights_shift_with_the_words(tokenizer: Tokenizer) -> None:
    mapper = replacement_mapper(FROG, CAT, tokenizer)
    assert_close(mapper[2:5, 2], torch.full((3,), 1.0))  # each piece of <frog> gives its map to "cat"
    assert mapper[7].nonzero().tolist() == [[5]]  # snow
    shared, _ = refinement_mapper(FROG, CAT, tokenizer)
    assert shared[:6].tolist() == [0, 1, -1, 5, 6, 7]
    assert word_column(FROG, "snow", [tokenizer]).nonzero().tolist() == [[7]]
    assert equalizer(FROG, {"<frog>": 2.0, "snow": 3.0}, tokenizer)[:9].tolist() == [
        1, 1, 2, 2, 2, 1, 1, 3, 1
    ]  # fmt: skip


def test_an_edit_takes_from_the_source_at_these_places(tokenizer: Tokenizer) -> None:
    request = EditRequest(FROG, CAT, blend_words=("snow", "snow"))
    edit = PromptToPrompt(tau=0.0).trajectory(request, [tokenizer], 2)
    injected = edit.injections[0]
    assert injected is not None
    assert injected.cross is not None
    assert edit.blend is not None
    assert injected.cross.source_mix[:, 5].nonzero().tolist() == [[7]]
    assert edit.blend.source_words[:, 0].nonzero().tolist() == [[7]]
    assert edit.blend.target_words[:, 0].nonzero().tolist() == [[5]]


def test_the_limit_counts_what_is_encoded(tokenizer: Tokenizer, model: StableDiffusion) -> None:
    fits, long = (f"{'cat ' * count}<frog>" for count in (72, 73))
    check_prompt(fits, [tokenizer])
    with pytest.raises(ValueError, match="has 78 tokens, allowed are 77"):
        FixedSeed().trajectory(EditRequest(CAT, long), [tokenizer], 2)
    with pytest.raises(ValueError, match="has 78 tokens, allowed are 77"):
        model.encode_prompt(long)


def test_pieces_written_out_are_read_as_diffusers_expands_them_again(tokenizer: Tokenizer) -> None:
    assert word_tokens("a <frog> <frog>_1 cat", tokenizer) == [[1], [2, 3, 4], [5, 6, 7, 8, 9], [10]]


def test_a_token_loaded_later_is_known(tiny_folder: Path, tmp_path: Path) -> None:
    model = ModelSpec("tiny", str(tiny_folder), 16, 16, device="cpu").load()
    [tokenizer] = model.tokenizers
    assert word_indices("a <bug> in snow", "snow", tokenizer) == [6]  # <, bug, >
    save_file({"<bug>": torch.randn(2, 32)}, tmp_path / "bug.safetensors")
    model.pipeline.load_textual_inversion(tmp_path / "bug.safetensors", token="<bug>")
    assert word_indices("a <bug> in snow", "snow", tokenizer) == [5]


def test_flux_expands_what_its_t5_has() -> None:
    pipeline = tiny_flux_pipeline()
    before = len(pipeline.tokenizer_2)
    pipeline.load_textual_inversion(
        [{"<frog>": torch.randn(3, 32)}], token=["<frog>"],
        tokenizer=pipeline.tokenizer_2, text_encoder=pipeline.text_encoder_2,
    )  # fmt: skip
    assert len(pipeline.tokenizer_2) == before + 3
    [tokenizer] = family_of("FluxPipeline").aligned_tokenizers({"tokenizer_2": pipeline.tokenizer_2})
    words = word_tokens("a <frog> on the bench", tokenizer)
    ids = pipeline.tokenizer_2(pipeline.maybe_convert_prompt("a <frog> on the bench", pipeline.tokenizer_2))
    pieces = pipeline.tokenizer_2.convert_ids_to_tokens(ids.input_ids)
    assert [[pieces[i] for i in word] for word in words][-3:] == [["▁on"], ["▁the"], ["▁bench"]]
    assert {"<frog>", "<frog>_1", "<frog>_2"} <= {pieces[i] for i in words[1]}
