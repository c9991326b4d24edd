"""What holds for every test: no network, no telemetry, no window."""

import gc
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from p2p import StableDiffusion

# Read by the libraries when they are imported, which is after this file.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TRANSFORMERS_OFFLINE="1",
    DIFFUSERS_OFFLINE="1",
    MPLBACKEND="Agg",
    TOKENIZERS_PARALLELISM="false",
    WANDB_MODE="offline",
    WANDB_SILENT="true",
    WANDB_CONSOLE="off",
    WANDB_ERROR_REPORTING="false",
    WANDB_DISABLE_GIT="true",
    WANDB_DISABLE_CODE="true",
    WANDB_X_DISABLE_STATS="true",
    WANDB_X_DISABLE_META="true",
    RAY_USAGE_STATS_ENABLED="0",
)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is started would compile all modules, each time
if processes := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(processes))))


def pytest_collection_finish() -> None:
    """Leave what is imported by now out of garbage collection: a fifteenth of the tests' time.

    The rest is collected rarely: of composing a configuration, that was a twenty-fifth.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50000, 10, 10)


@pytest.fixture(autouse=True)
def _only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a connection to any other machine fail at once, with its address."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in (
            "127.0.0.1",
            "::1",
            "localhost",
        ):
            raise PermissionError(f"a test tried to reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Stable-Diffusion pipeline on disk, which each call of the command line reads."""
    from tests.tiny import common_words_tokenizer, save_tiny_pipeline

    return save_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "pipeline", common_words_tokenizer())


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path) -> "StableDiffusion":
    """The same pipeline in double precision, so that what should be equal is; attention at 16x16 and 8x8."""
    from tests.tiny import load_tiny_model

    return load_tiny_model(tiny_folder)
