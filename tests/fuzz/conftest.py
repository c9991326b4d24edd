"""Tests of odd inputs run in an empty folder of their own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny import common_words_tokenizer, save_tiny_pipeline


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Stable-Diffusion pipeline on disk, which is read for each odd input."""
    return save_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "pipeline", common_words_tokenizer())


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("fuzz"))
    yield
    os.chdir(before)
