"""A pipeline on disk or on the model hub: where it is, whether it is whole, its hash, and how it is read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from p2p.memory import attempt

ZEROS = "force_zeros_for_empty_prompt"  # SDXL's model_index.json says what an empty negative prompt is


DTYPES = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class PipelineFiles:
    """Where a pipeline of diffusers comes from, a folder or a name on the model hub, and how it is read."""

    owner: str  # how errors begin
    path: str
    kind: Callable[[], Any]  # gives diffusers' class, whose import takes seconds
    options: Mapping[str, Any]  # of the class's `download` and `from_pretrained`
    left_out: Mapping[str, None] = field(default_factory=dict)  # parts to do without
    made_by: str = ""  # the command that makes a folder that nobody publishes

    def folder(self) -> Path | None:
        """Return the pipeline's folder on this machine, or None where it would have to be fetched."""
        return local_folder(self.path, self.kind, {**self.options, **self.left_out})

    def fetch(self) -> None:
        """Bring the weights to this machine. Raises OSError in one line where they cannot be had.

        A download that broke off goes on; without a network, what is here has to do. What a command makes is
        not looked for on the hub.
        """
        if plain_folder(self.path) is not None:
            return
        if self.made_by:
            raise self.unavailable("")
        try:
            self.checked(self.kind().download, self.path, **self.options)
        except OSError:
            if self.folder() is None:
                raise

    def read(self, dtype: str, components: Mapping[str, Any] | None = None) -> Any:
        """Return the pipeline, on the CPU, without progress bars; `components` are parts that are there.

        Raises OSError in one line where its weights cannot be had.
        """
        with _without_bars():
            pipeline = self.checked(
                self.kind().from_pretrained,
                self.folder() or self.path,
                dtype=getattr(torch, dtype),
                **{**self.options, **self.left_out, **(components or {})},
            )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def place(self, pipeline: Any, device: torch.device | str) -> None:
        """Move a pipeline to a device and freeze its networks. Raises torch.OutOfMemoryError in one line."""
        self.checked(attempt, partial(pipeline.to, device), f"{self.owner} on {device}")
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()

    def checked(self, get: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return what a function gives; what it raises where weights cannot be had becomes one line.

        Of files that do not fit each other diffusers and transformers raise whatever comes.
        """
        try:
            return get(*args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            if isinstance(error, LookupError | AttributeError):  # whose text is a mere name or number
                cause = f"{type(error).__name__}: {cause}"
            raise self.unavailable(cause) from error

    def unavailable(self, cause: str) -> OSError:
        """Return the error that says where weights were looked for, and why they cannot be had or how."""
        told = f"({cause})" if cause else ""
        if self.made_by and plain_folder(self.path) is None:
            told = f"yet, `{self.made_by}` makes them"
        return OSError(f"{self.owner}: no weights at {self.path!r} {told}")


@contextmanager
def _without_bars() -> Iterator[None]:
    """Leave out diffusers' bar of the parts that it loads."""
    from diffusers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def read_object(file: Path) -> dict[str, Any]:
    """Return what a JSON file of a pipeline holds. Raises ValueError, naming the file, for no JSON object."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: is not JSON ({str(error) or type(error).__name__})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: holds {type(content).__name__}, allowed is a JSON object")
    return content


def plain_folder(path: str) -> Path | None:
    """Return the folder that a pipeline's path names, None where it is a name on the model hub.

    A relative one counts from the working directory, or else from the repository root.
    """
    folders = (Path(path), Path(__file__).resolve().parents[2] / path)
    return next((folder for folder in folders if (folder / "model_index.json").is_file()), None)


def local_folder(path: str, pipeline_class: Callable[[], Any], options: Mapping[str, Any]) -> Path | None:
    """Return a pipeline's folder on this machine, or None where it would have to be fetched.

    For a name on the model hub it is the folder that diffusers' `download` with these options leaves behind.
    A folder that lacks files has to be fetched.
    """
    if (folder := plain_folder(path)) is not None:
        return folder
    try:
        folder = Path(pipeline_class().download(path, local_files_only=True, **options))
        left_out = {name for name, value in options.items() if value is None}
        return folder if _whole(folder, left_out) else None
    except (OSError, ValueError):
        return None


def _whole(folder: Path, left_out: Collection[str]) -> bool:
    """Say whether a pipeline's parts are there, networks with all their weights.

    diffusers knows the files to ask for only where a list of the repository's files was kept.
    """
    index = read_object(folder / "model_index.json")
    parts = [
        folder / name
        for name, kind in index.items()
        if name[0] != "_"
        and name not in left_out
        and isinstance(kind, list)
        and all(isinstance(word, str) for word in kind)
    ]
    return all(any(part.glob("*config.json")) and _has_weights(part) for part in parts)


def _has_weights(part: Path) -> bool:
    if not (part / "config.json").is_file():
        return True  # a tokenizer or a scheduler
    indices = [read_object(file) for file in part.glob("*.safetensors.index*.json")]
    if indices:
        return any(all((part / name).is_file() for name in i["weight_map"].values()) for i in indices)
    return any(file.suffix in (".safetensors", ".bin") for file in part.iterdir())


@cache
def hash_files(
    folder: Path,
    variant: str | None = None,
    aside: tuple[str, ...] = ("scheduler", "safety_checker", "feature_extractor"),
) -> str:
    """Return a hash of a pipeline's weights of this variant and configs, without the parts `aside`.

    Large files in the hub's cache are symlinks named after their SHA-256, so that name is used instead of
    reading them. Weights of other variants in the folder are skipped.
    """
    digest = hashlib.sha256()
    parts = [part for part in sorted(folder.iterdir()) if part.is_dir() and part.name not in aside]
    for file in (file for part in parts for file in sorted(part.rglob("*")) if _determines(file, variant)):
        blob = file.resolve().name
        named = file.is_symlink() and re.fullmatch("[0-9a-f]{64}", blob)
        content = blob if named else hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(folder)}:{content}\n".encode())
    index = read_object(folder / "model_index.json")
    if (zeros := index.get(ZEROS)) is not None:
        digest.update(f"{ZEROS}:{zeros}\n".encode())
    return digest.hexdigest()


def _determines(file: Path, variant: str | None) -> bool:
    """Say whether a file of a pipeline has a part in its pixels; a model card has none."""
    if file.suffix in (".safetensors", ".bin"):
        others = {_variant(other) for other in file.parent.glob(f"*{file.suffix}")}
        if _variant(file) != (variant if variant in others else None):
            return False
    if file.suffix == ".json" or file.suffix == ".txt":
        names = ("config", "tokenizer", "tokenizer_config", "vocab", "merges", "scheduler_config")
        return file.stem in (*names, "preprocessor_config")
    if file.suffix == ".bin":  # read only where there is nothing safer
        return not any(file.parent.glob("*.safetensors"))
    return file.suffix in (".safetensors", ".model")


def _variant(weights: Path) -> str | None:
    """Return "fp16" of model.fp16.safetensors and of model.fp16-00001-of-00002.safetensors."""
    found = re.fullmatch(r"[^.]+\.([^.]+?)(-\d+-of-\d+)?", weights.stem)
    return found[1] if found else None
