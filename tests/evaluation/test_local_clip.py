"""The directional similarity inside a mask is that of the cut-out parts, by open_clip itself."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.tokenizer import HFTokenizer
from torch.nn.functional import cosine_similarity
from torchvision.transforms.functional import to_pil_image

from evaluation import Edits, WeightsUnavailable
from evaluation.clip import Clip
from evaluation.local_clip import LocalClip
from tests.evaluation.pictures import edits_of, masked_edits, rows_of

pytestmark = pytest.mark.xdist_group("clip")

NAME = "clip_local_directional_tiny@1"


@pytest.fixture(scope="module")
def tiny(clip_folder: Path) -> LocalClip:
    return LocalClip("tiny", folder=clip_folder)


def test_equal_to_open_clip_on_the_parts_cut_by_hand(
    tiny: LocalClip, clip_folder: Path, masked: Edits
) -> None:
    """Boxes of the masks in `masked_edits`, made square by hand: 45 wide, all of it, 34 wide, all of it."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    tokenizer = HFTokenizer(str(clip_folder / "tokenizer"), context_length=8)
    boxes = {
        0: (slice(2, 47), slice(5, 50)),
        1: (slice(0, 64), slice(0, 64)),
        3: (slice(0, 64), slice(0, 64)),
    }

    def image(picture: torch.Tensor, rows: slice, columns: slice) -> Any:
        pil = to_pil_image((picture[:, rows, columns] * 255).round().to(torch.uint8))
        return model.eval().encode_image(preprocess(pil)[None], normalize=True)[0]

    def text(prompt: str) -> Any:
        return model.eval().encode_text(tokenizer([prompt]), normalize=True)[0]

    values = tiny(masked)[NAME].values
    for row, box in boxes.items():
        source = masked.source_images[masked.source_index[row]]
        with torch.no_grad():
            change = image(masked.images[row], *box) - image(source, *box)
            words = text(masked.target_prompts[row]) - text(masked.source_prompts[row])
        # Unit vectors in float32 agree to about 1e-7; their changes are 10 to 100 times shorter.
        expected = cosine_similarity(change, words, dim=0).item()
        assert values[row].item() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(
    ("rows", "columns", "part"),
    [
        ((10, 20), (10, 30), ((5, 25), (10, 30))),  # grown in height, evenly
        ((0, 4), (50, 60), ((0, 10), (50, 60))),  # grown where there is room
        ((36, 40), (0, 10), ((30, 40), (0, 10))),
        ((5, 6), (0, 80), ((0, 40), (0, 80))),  # as high as the image and no higher
        ((7, 8), (9, 10), ((7, 8), (9, 10))),
    ],
)
def test_the_part_is_the_square_around_the_mask(
    tiny: LocalClip, rows: tuple[int, int], columns: tuple[int, int], part: tuple[tuple[int, int], ...]
) -> None:
    """With a change outside the square there is none; with one at any of its corners images differ."""
    one = rows_of(edits_of((40, 80)), [0])
    mask, inside = torch.zeros(1, 1, 40, 80), torch.zeros(40, 80, dtype=torch.bool)
    mask[..., slice(*rows), slice(*columns)] = 1
    inside[slice(*part[0]), slice(*part[1])] = True
    outside = torch.where(inside, one.source_images, 1 - one.source_images)
    assert tiny(replace(one, images=outside, masks=mask))[NAME].reasons == ("equal images",)
    (sizes,) = _sizes(tiny, replace(one, masks=mask))
    assert sizes == tuple(end - start for start, end in part)


def _sizes(metric: LocalClip, edits: Edits) -> set[tuple[int, ...]]:
    """Height and width of what the model's preprocessing is given."""
    sizes: set[tuple[int, ...]] = set()
    encoder = metric.clip.encoder

    def transform(image: Any) -> torch.Tensor:
        sizes.add((image.height, image.width))
        return encoder.transform(image)

    spy = LocalClip("tiny", folder=metric.folder)
    vars(spy.clip)["encoder"] = replace(encoder, transform=transform)
    spy(edits)
    return sizes


def test_a_mask_of_the_whole_image_gives_the_directional_similarity(
    tiny: LocalClip, clip_folder: Path
) -> None:
    """Also where the image is no square, and CLIP cuts its ends off."""
    edits = replace(edits_of((40, 80)), masks=torch.ones(5, 1, 40, 80, dtype=torch.bool))
    whole = Clip("tiny", folder=clip_folder)(edits)["clip_directional_tiny@1"]
    local = tiny(edits)[NAME]
    assert local.reasons == whole.reasons
    torch.testing.assert_close(local.values, whole.values, atol=2e-5, rtol=0, equal_nan=True)


def test_what_is_undefined_is_missing_with_its_reason(tiny: LocalClip, masked: Edits) -> None:
    assert tiny(masked)[NAME].reasons == ("", "", "equal prompts", "", "mask is empty")
    assert tiny(replace(masked, masks=None))[NAME].reasons == ("no mask",) * 5
    masks = torch.ones_like(masked.masks)
    assert tiny(replace(masked, masks=masks))[NAME].reasons == ("", "", "equal prompts", "", "equal images")
    long = replace(masked, target_prompts=("red " * 7, *masked.target_prompts[1:]))
    assert tiny(long)[NAME].reasons[0] == "target prompt longer than 8 tokens"


def test_values_do_not_depend_on_batch_size_or_order(
    tiny: LocalClip, clip_folder: Path, masked: Edits
) -> None:
    rows = [3, 1, 4, 0, 2]
    whole, other = (
        tiny(masked)[NAME],
        LocalClip("tiny", folder=clip_folder, batch_size=2)(rows_of(masked, rows))[NAME],
    )
    assert [whole.reasons[row] for row in rows] == list(other.reasons)
    torch.testing.assert_close(whole.values[rows], other.values, atol=2e-5, rtol=0, equal_nan=True)


def test_a_source_is_encoded_once_per_box(tiny: LocalClip, monkeypatch: pytest.MonkeyPatch) -> None:
    """Edits 0, 2 and 4 share a source; with one mask for all there are two parts of sources."""
    edits, seen = masked_edits(), 0
    model = tiny.clip.encoder.model
    encode = model.encode_image

    def count(batch: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        seen += len(batch)
        return encode(batch)

    monkeypatch.setattr(model, "encode_image", count)
    tiny(replace(edits, masks=edits.masks[[0] * 5]))
    assert seen == 5 + 2


def test_names_and_weights(clip_folder: Path, tmp_path: Path) -> None:
    metric = LocalClip("ViT-L-14", "openai")
    assert metric.name == "clip_local_ViT-L-14_openai@1"
    assert metric.names == ("clip_local_directional_ViT-L-14_openai@1",)
    assert metric.higher_is_better == {metric.names[0]: True}
    LocalClip("tiny", folder=clip_folder).check()
    with pytest.raises(WeightsUnavailable, match=r"clip_local_tiny@1: .* lacks open_clip_config.json"):
        LocalClip("tiny", folder=tmp_path).check()
