"""Inversions are kept by content: `<folder>/<hash of image, prompt, model and settings>.safetensors`.

Written whole or not at all, so that runs and workers may share the folder; a file that cannot be read is made
anew.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from p2p.engine import source_paths
from p2p.families.model import Model
from p2p.groups import Group
from p2p.sampling import Calls, Sampling
from p2p.source_path import Shrink, SourcePath
from results.store.whole_files import write_whole

_log = logging.getLogger(__name__)
_NEGATIVES = "negatives."
_TENSORS = ("latents", "states", "noises", "picture")


def kept_paths(
    model: Model,
    groups: Sequence[Group],
    keys: Sequence[str],
    sampling: Sampling,
    calls: Calls,
    folder: Path,
) -> list[SourcePath | None]:
    """Return the groups' source paths, from the folder where they are there, else made and kept.

    `keys` names each group's inversion, "" for what is not to be kept.
    """
    files = [folder / f"{key}.safetensors" if key else None for key in keys]
    paths = [read_path(file, model.device) if file and file.exists() else None for file in files]
    missing = [i for i, path in enumerate(paths) if path is None]
    made = source_paths(model, [groups[i] for i in missing], sampling, calls)
    for i, path in zip(missing, made, strict=True):
        paths[i] = path
        if (file := files[i]) and path is not None:
            write_path(path, file)
    return paths


def write_path(path: SourcePath, file: Path) -> None:
    """Write an inverted source's path, whole or not at all."""
    tensors = {name: getattr(path, name) for name in _TENSORS if getattr(path, name) is not None}
    tensors |= {_NEGATIVES + name: rows for name, rows in (path.negatives or {}).items()}
    rest = {
        "start": path.start,
        "guidance_scale": path.guidance_scale,
        "shrink": asdict(path.shrink) if path.shrink else None,
        "solver": path.solver,
        "level_step": path.level_step,
        "pulls": path.pulls,
    }
    # Clones: rows of one batch share their memory, which the format does not allow.
    kept = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    # As bytes: where the disk is full, the library's own writer raises an error that does not say so.
    write_whole(file, save(kept, {"path": json.dumps(rest), "key": file.stem}))


def read_path(file: Path, device: torch.device) -> SourcePath | None:
    """Return what `write_path` wrote; None, with a warning, where the file cannot be read or is another's.

    Files from before they told their key are taken to be what they are called.
    """
    try:
        with safe_open(file, framework="pt", device=str(device)) as content:
            tensors: dict[str, Tensor] = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            told = content.metadata()
        if (key := told.get("key", file.stem)) != file.stem:
            raise ValueError(f"it is the inversion {key}")
        rest = json.loads(told["path"])
        negatives = {
            name.removeprefix(_NEGATIVES): rows
            for name, rows in tensors.items()
            if name.startswith(_NEGATIVES)
        }
        return SourcePath(
            latents=tensors["latents"],
            states=tensors.get("states"),
            noises=tensors.get("noises"),
            negatives=negatives or None,
            start=int(rest["start"]),
            guidance_scale=rest["guidance_scale"],
            shrink=Shrink(**rest["shrink"]) if rest["shrink"] else None,
            solver=rest.get("solver"),
            level_step=rest.get("level_step"),
            picture=tensors.get("picture"),
            pulls=tuple(rest.get("pulls", ())),
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        _log.warning("%s cannot be read, the inversion is made anew: %s", file, error)
        return None
