"""Damaged pictures as source images and as masks."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from experiments.inputs.masks import mask_digest, read_mask
from experiments.inputs.real_images import RealImage
from tests.fuzz.odd import damaged, examples, refused_or_done

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF")
MOST_PIXELS = 2**22  # a damaged header may ask for gigabytes


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


pictures = st.sampled_from(FORMATS).flatmap(lambda kind: damaged(encoded(kind)))


def is_small(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return picture.width * picture.height <= MOST_PIXELS
    except Exception:  # ours has to say so
        return True


@pytest.fixture(autouse=True)
def _pillows_warnings() -> None:
    warnings.simplefilter("ignore")  # of damaged metadata; here they would be errors


@examples(0.15)
@given(pictures.filter(is_small))
def test_a_source_image(content: bytes) -> None:
    Path("image").write_bytes(content)
    image = refused_or_done(lambda: RealImage.of(Path("image")))
    if image is not None:
        assert image.read((16, 24)).shape == (3, 16, 24)


@examples(0.1)
@given(pictures.filter(is_small))
def test_a_mask(content: bytes) -> None:
    Path("mask").write_bytes(content)
    refused_or_done(lambda: mask_digest(read_mask(Path("mask"), "one", (16, 24))))
