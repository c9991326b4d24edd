"""Where the weights of metrics lie, and one clear line before anything is computed if they cannot be had."""

import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 5.0


class WeightsUnavailable(RuntimeError):
    """A metric's weights are neither here nor to be fetched. The message is one line."""


SMALL_LPIPS = ("lpips.json", "lpips.safetensors")
"""What a folder of `evaluation.small_lpips` holds, to be looked for without the imports of that module."""


@dataclass(frozen=True)
class Pinned:
    """A Hugging Face repository at one of its commits, so that what it holds cannot change."""

    repo: str
    revision: str  # of 40 hexadecimal digits


def weights_folder(folder: str | Path) -> Path:
    """Resolve a folder; a relative one counts from the repository root, whatever the working directory."""
    return ROOT / folder


def require_files(name: str, folder: Path, files: tuple[str, ...]) -> None:
    """Raise if the folder lacks one of the files."""
    missing = [file for file in files if not (folder / file).exists()]
    if missing:
        raise WeightsUnavailable(f"{name}: {folder} lacks {', '.join(missing)}")


def require_reachable(name: str, url: str, cached: Path) -> None:
    """Raise unless the file is in the cache or its address answers."""
    if cached.is_file():
        return
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=TIMEOUT_S).close()
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise WeightsUnavailable(
            f"{name}: no weights at {cached} and {url} cannot be reached ({reason}); "
            "download it elsewhere and put it there"
        ) from None


def require_hub(name: str, source: str | Pinned, files: tuple[str, ...]) -> None:
    """Raise unless one of the files of a Hugging Face repository is in the cache or can be fetched."""
    repo, revision = (source, None) if isinstance(source, str) else (source.repo, source.revision)
    if any(
        isinstance(huggingface_hub.try_to_load_from_cache(repo, file, revision=revision), str)
        for file in files
    ):
        return
    for file in files:
        try:
            url = huggingface_hub.hf_hub_url(repo, file, revision=revision)
            huggingface_hub.get_hf_file_metadata(url, timeout=TIMEOUT_S)
            return
        except Exception as error:  # offline, gated, absent, no network: each hub client has its own kinds
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    at = "" if revision is None else f" --revision {revision}"
    raise WeightsUnavailable(
        f"{name}: no weights of {repo} in the Hugging Face cache, and they cannot be fetched ({reason}); "
        f"run 'hf download {repo} {files[0]}{at}' where there is a network and copy the cache here"
    )


def hub_arguments(source: str | Path | Pinned) -> dict[str, Any]:
    """Return what `from_pretrained` takes to read a folder, a repository, or a repository at a commit."""
    if isinstance(source, Pinned):
        return {"pretrained_model_name_or_path": source.repo, "revision": source.revision}
    return {"pretrained_model_name_or_path": source}
