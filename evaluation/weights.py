"""Where the weights of metrics lie, and one clear line before anything is computed if they cannot be had."""

import urllib.error
import urllib.request
from pathlib import Path

import huggingface_hub

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 5.0


class WeightsUnavailable(RuntimeError):
    """A metric's weights are neither here nor to be fetched. The message is one line."""


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


def require_hub(name: str, repo: str, files: tuple[str, ...]) -> None:
    """Raise unless one of the files of a Hugging Face repository is in the cache or can be fetched."""
    if any(isinstance(huggingface_hub.try_to_load_from_cache(repo, file), str) for file in files):
        return
    for file in files:
        try:
            huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(repo, file), timeout=TIMEOUT_S)
            return
        except Exception as error:  # offline, gated, absent, no network: each hub client has its own kinds
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise WeightsUnavailable(
        f"{name}: no weights of {repo} in the Hugging Face cache, and they cannot be fetched ({reason}); "
        f"run 'hf download {repo} {files[0]}' where there is a network and copy the cache here"
    )
