"""CLIP columns equal open_clip's own pipeline and the formulas worked out by hand."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import pytest
import torch
from open_clip.tokenizer import HFTokenizer
from torch.nn.functional import cosine_similarity
from torchvision.transforms.functional import to_pil_image

from evaluation import Edits, WeightsUnavailable, encoder
from evaluation.clip import Clip
from tests.evaluation.pictures import edits_of, rows_of

pytestmark = pytest.mark.xdist_group("clip")

COLUMNS = tuple(f"clip_{kind}_tiny@1" for kind in ("source", "target", "directional", "image"))


@pytest.fixture(scope="module")
def tiny(clip_folder: Path) -> Clip:
    return Clip("tiny", folder=clip_folder)


@pytest.fixture(scope="module")
def vit_b32() -> Iterator[Clip]:
    metric = Clip("ViT-B-32", "random")
    metric.load()
    yield metric
    del metric.encoder


def _by_hand(model: Any, preprocess: Any, tokenizer: Any, edits: Edits) -> dict[str, torch.Tensor]:
    def image(picture: torch.Tensor) -> torch.Tensor:
        pil = to_pil_image((picture * 255).round().to(torch.uint8))
        return model.encode_image(preprocess(pil)[None], normalize=True)[0]

    def text(prompt: str) -> torch.Tensor:
        return model.encode_text(tokenizer([prompt]), normalize=True)[0]

    with torch.no_grad():
        edit, source = (
            torch.stack([*map(image, edits.images)]),
            torch.stack([*map(image, edits.source_images)]),
        )
        source = source[edits.source_index]
        before = torch.stack([*map(text, edits.source_prompts)])
        after = torch.stack([*map(text, edits.target_prompts)])
    return {
        "source": cosine_similarity(edit, before),
        "target": cosine_similarity(edit, after),
        "directional": cosine_similarity(edit - source, after - before),
        "image": cosine_similarity(edit, source),
    }


def _assert_equal(metric: Clip, edits: Edits, expected: dict[str, torch.Tensor]) -> None:
    # Unit vectors in float32 agree to about 1e-7; their changes are 10 to 100 times shorter.
    tolerance = {"source": 1e-6, "target": 1e-6, "directional": 2e-5, "image": 1e-6}
    for (kind, values), scores in zip(expected.items(), metric(edits).values(), strict=True):
        there = ~scores.values.isnan()
        assert there.sum() >= 3
        torch.testing.assert_close(scores.values[there], values.double()[there], atol=tolerance[kind], rtol=0)


def test_folder_model_equals_open_clip_by_hand(tiny: Clip, clip_folder: Path, edits: Edits) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    tokenizer = HFTokenizer(str(clip_folder / "tokenizer"), context_length=8)
    _assert_equal(tiny, edits, _by_hand(model.eval(), preprocess, tokenizer, edits))


def test_named_model_equals_open_clip_by_hand(vit_b32: Clip) -> None:
    """On images that are not square, so that the centre crop counts."""
    edits = edits_of((60, 80))
    preprocess = open_clip.image_transform(224, is_train=False)
    expected = _by_hand(vit_b32.encoder.model, preprocess, open_clip.get_tokenizer("ViT-B-32"), edits)
    _assert_equal(vit_b32, edits, expected)
    assert vit_b32.names[1] == "clip_target_ViT-B-32_random@1"


def test_directional_is_missing_where_nothing_changed(tiny: Clip, edits: Edits) -> None:
    scores = tiny(edits)
    assert tuple(scores) == tiny.names == COLUMNS
    assert scores[COLUMNS[2]].reasons == ("", "", "equal prompts", "", "equal images")
    assert scores[COLUMNS[2]].values.isnan().tolist() == [False, False, True, False, True]
    for name in (COLUMNS[0], COLUMNS[1], COLUMNS[3]):
        assert not scores[name].values.isnan().any()
    assert scores[COLUMNS[3]].values[4] == pytest.approx(1, abs=1e-6)


def test_a_change_too_small_to_see_has_no_direction(tiny: Clip, edits: Edits) -> None:
    """Less than half of an 8-bit step is rounded away: the backbone gets equal images."""
    edits.images[4, :, 5, 5] = (edits.images[4, :, 5, 5] + 1e-4).clamp(max=1)
    assert tiny(edits)[COLUMNS[2]].reasons[4] == "equal images"


def test_values_do_not_depend_on_batch_size_or_order(clip_folder: Path, tiny: Clip, edits: Edits) -> None:
    rows = [3, 1, 4, 0, 2]
    whole, other = tiny(edits), Clip("tiny", folder=clip_folder, batch_size=2)(rows_of(edits, rows))
    for name in COLUMNS:
        assert [whole[name].reasons[row] for row in rows] == list(other[name].reasons)
        torch.testing.assert_close(
            whole[name].values[rows], other[name].values, atol=2e-5, rtol=0, equal_nan=True
        )


def test_sources_and_prompts_are_encoded_once(
    tiny: Clip, edits: Edits, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {"image": 0, "text": 0}
    model = tiny.encoder.model

    def counting(kind: str, encode: Any) -> Any:
        def count(batch: torch.Tensor) -> torch.Tensor:
            seen[kind] += len(batch)
            return encode(batch)

        return count

    monkeypatch.setattr(model, "encode_image", counting("image", model.encode_image))
    monkeypatch.setattr(model, "encode_text", counting("text", model.encode_text))
    tiny(edits)
    assert seen == {"image": 5 + 2, "text": 6}


@pytest.mark.parametrize(("words", "fits"), [(6, True), (7, False), (20, False)])
def test_what_needs_too_long_a_prompt_is_missing(tiny: Clip, edits: Edits, words: int, fits: bool) -> None:
    """Six words, start and end fill the tiny model's eight places."""
    prompt = " ".join(["red"] * words)
    prompts = (prompt, *edits.target_prompts[1:])
    long = Edits(edits.images, edits.source_images, edits.source_index, edits.source_prompts, prompts)
    reason = "" if fits else "target prompt longer than 8 tokens"
    scores, others = tiny(long), tiny(edits)
    for name in tiny.names:
        told = reason if "target" in name or "directional" in name else ""
        assert scores[name].reasons[0] == told or fits
        torch.testing.assert_close(scores[name].values[1:], others[name].values[1:], equal_nan=True)
    assert scores[tiny.names[1]].values[0].isnan() != fits


@pytest.mark.parametrize(("words", "fits"), [(75, True), (76, False)])
def test_open_clips_tokenizer_tells_too_long_a_prompt(vit_b32: Clip, words: int, fits: bool) -> None:
    prompt = " ".join(["cat"] * words)
    reason = "" if fits else "prompt longer than 77 tokens"
    vectors = vit_b32.encoder.prompts(["a dog", prompt])
    assert vit_b32.encoder.too_long(vectors, "prompt") == ("", reason)
    lengths = torch.tensor([1.0, 1.0 if fits else torch.nan]).double()
    torch.testing.assert_close(vectors.norm(dim=1), lengths, equal_nan=True)


def test_the_folder_does_not_depend_on_the_working_directory(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("evaluation.weights.ROOT", clip_folder.parent)
    metric = Clip("tiny", folder="clip")
    metric.check()
    metric.load()


def test_construction_is_cheap_and_pickles(clip_folder: Path) -> None:
    metric = pickle.loads(pickle.dumps(Clip("anything", folder="nowhere")))
    assert "encoder" not in vars(metric)
    assert metric.name == "clip_anything@1"


def test_names_are_safe_as_folders() -> None:
    assert Clip("coca_ViT-B-32", "a/b c").name == "clip_coca_ViT-B-32_a-b-c@1"
    assert Clip("ViT-L-14", "openai").name == "clip_ViT-L-14_openai@1"


def test_likeness_to_the_source_prompt_has_no_better_direction(tiny: Clip) -> None:
    assert [tiny.higher_is_better.get(name) for name in COLUMNS] == [None, True, True, True]


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="pretrained is None and folder None; allowed: just one"):
        Clip("ViT-B-32")
    with pytest.raises(ValueError, match="just one"):
        Clip("ViT-B-32", "openai", folder="somewhere")
    with pytest.raises(ValueError, match="backbone is 'ViT-X'; allowed"):
        Clip("ViT-X", "openai").check()
    with pytest.raises(ValueError, match="pretrained is 'mine' for ViT-L-14; allowed: openai, "):
        Clip("ViT-L-14", "mine").check()


@pytest.mark.parametrize("missing", ["open_clip_model.safetensors", "tokenizer/tokenizer_config.json"])
def test_what_the_folder_lacks_is_said_in_one_line(clip_folder: Path, tmp_path: Path, missing: str) -> None:
    for file in clip_folder.rglob("*"):
        here = tmp_path / file.relative_to(clip_folder)
        if file.is_dir():
            here.mkdir()
        elif file != clip_folder / missing:
            here.symlink_to(file)
    with pytest.raises(WeightsUnavailable, match=f"clip_tiny@1: .* lacks {missing}") as caught:
        Clip("tiny", folder=tmp_path).check()
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_fetched_are_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(url: str, timeout: float) -> None:
        raise OSError("no network\nand a second line")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, file, revision: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", offline)
    with pytest.raises(
        WeightsUnavailable, match=r"clip_ViT-L-14_openai@1: no weights .*\(no network\)"
    ) as caught:
        Clip("ViT-L-14", "openai").check()
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, file, revision: "/cache/file")
    Clip("ViT-L-14", "openai").check()


def test_openai_weights_get_their_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    """ViT-B-32 says GELU, but its OpenAI weights come from QuickGELU: without the switch all is off."""
    asked: list[tuple[str, bool]] = []

    def create_model(backbone: str, tag: str, force_quick_gelu: bool, require_pretrained: bool) -> None:
        asked.append((tag, force_quick_gelu))
        raise InterruptedError

    monkeypatch.setattr(open_clip, "create_model", create_model)
    for tag in ("openai", "laion2b_s34b_b79k"):
        with pytest.raises(InterruptedError):
            encoder.load_pretrained("ViT-B-32", tag, "cpu", 1)
    assert asked == [("openai", True), ("laion2b_s34b_b79k", False)]
