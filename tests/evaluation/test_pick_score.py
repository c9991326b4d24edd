"""PickScore equals the model card's code, run through transformers' own processor on one image at a time."""

from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from torchvision.transforms.functional import to_pil_image
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from evaluation import Edits, WeightsUnavailable, clip_hub
from evaluation.pick_score import PickScore
from tests.evaluation.pictures import rows_of

NAME = "pickscore_tiny@1"


@pytest.fixture(scope="module")
def tiny(hub_folder: Path) -> PickScore:
    return PickScore("tiny", folder=hub_folder)


def test_equal_to_the_cards_code(tiny: PickScore, hub_folder: Path, edits: Edits) -> None:
    """The card pads to the longest prompt and masks the rest; here what follows the end has no effect."""
    model = CLIPModel.from_pretrained(hub_folder).eval()
    processor = CLIPProcessor(
        CLIPImageProcessorPil.from_pretrained(hub_folder), CLIPTokenizer.from_pretrained(hub_folder)
    )
    options = {"padding": True, "truncation": True, "max_length": 77, "return_tensors": "pt"}
    values = tiny(edits)[NAME].values
    for row, (image, prompt) in enumerate(zip(edits.images, edits.target_prompts, strict=True)):
        picture = to_pil_image((image * 255).round().to(torch.uint8))
        with torch.no_grad():
            pixels = processor(images=picture, return_tensors="pt")
            seen = model.get_image_features(**pixels).pooler_output
            read = model.get_text_features(**processor(text=prompt, **options)).pooler_output
            cosine = torch.nn.functional.cosine_similarity(seen, read)
            expected = (model.logit_scale.exp() * cosine).item()
        assert abs(expected) > 0.1
        # A float32 cosine agrees to 1e-7; the scale makes it 14 times that.
        assert values[row].item() == pytest.approx(expected, abs=1e-5)


def test_values_do_not_depend_on_batch_size_or_order(tiny: PickScore, hub_folder: Path, edits: Edits) -> None:
    rows = [3, 1, 4, 0, 2]
    other = PickScore("tiny", folder=hub_folder, batch_size=2)(rows_of(edits, rows))[NAME].values
    torch.testing.assert_close(tiny(edits)[NAME].values[rows], other, atol=1e-5, rtol=0)


def test_weights_saved_in_half_are_run_in_float32(hub_folder: Path, tmp_path: Path, edits: Edits) -> None:
    """transformers 5 would run them in half; their rounding alone may show."""
    for file in hub_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    CLIPModel.from_pretrained(hub_folder).half().save_pretrained(tmp_path)
    assert {p.dtype for p in CLIPModel.from_pretrained(tmp_path).parameters()} == {torch.float16}
    halved = PickScore("tiny", folder=tmp_path)
    assert {p.dtype for p in halved.encoder.model.model.parameters()} == {torch.float32}


def test_too_long_a_prompt_is_missing(tiny: PickScore, edits: Edits) -> None:
    """Of 77 places two are for start and end; the tiny tokenizer has a token per letter."""
    long = replace(edits, target_prompts=("a" * 76, "a" * 75, *edits.target_prompts[2:]))
    assert tiny(long)[NAME].reasons == ("target prompt longer than 77 tokens", "", "", "", "")


def test_names_and_arguments(tmp_path: Path) -> None:
    assert PickScore().names == ("pickscore@1",)
    assert PickScore().higher_is_better == {"pickscore@1": True}
    assert PickScore("a b", folder=tmp_path).name == "pickscore_a-b@1"
    with pytest.raises(ValueError, match="backbone is 'mine'; allowed: PickScore_v1, or any name with"):
        PickScore("mine")


def test_the_published_model_is_read_at_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights from one repository, preprocessing from another, both pinned, by check and by load."""
    asked: list[tuple[str, str, str]] = []

    def cached(repo: str, file: str, revision: str) -> str:
        asked.append((repo, file, revision))
        return "/cache/file"

    def read(pretrained_model_name_or_path: str, revision: str, dtype: torch.dtype) -> torch.nn.Module:
        asked.append((pretrained_model_name_or_path, "model", revision))
        return torch.nn.Identity()

    def process(pretrained_model_name_or_path: str, revision: str) -> None:
        asked.append((pretrained_model_name_or_path, "processor", revision))
        raise InterruptedError

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    monkeypatch.setattr(CLIPModel, "from_pretrained", read)
    monkeypatch.setattr(CLIPImageProcessorPil, "from_pretrained", process)
    with pytest.raises(InterruptedError):
        PickScore().load()
    model, base = "yuvalkirstain/PickScore_v1", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    assert [(repo, file) for repo, file, _ in asked] == [
        (model, "model.safetensors"),
        *((base, file) for file in clip_hub.PREPROCESSING),
        (model, "model"),
        (base, "processor"),
    ]
    assert {revision[:7] for repo, _, revision in asked if repo == model} == {"a4e4367"}
    assert {revision[:7] for repo, _, revision in asked if repo == base} == {"1c2b849"}


def test_weights_that_cannot_be_had_are_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(url: str, timeout: float) -> None:
        raise OSError("no network\nand more")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, file, revision: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", offline)
    with pytest.raises(WeightsUnavailable, match=r"pickscore@1: .*--revision a4e4367\w{33}'.*") as caught:
        PickScore().check()
    assert "\n" not in str(caught.value)
    with pytest.raises(WeightsUnavailable, match=r"pickscore_mine@1: .* lacks config.json"):
        PickScore("mine", folder=tmp_path).check()
