"""What a pipeline's files tell before weights are read: its class, tokenizers, channels, quantisation."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from p2p.denoiser_hooks import unasked_parts
from p2p.families import FAMILIES
from p2p.families.model import Model, encoder_of
from p2p.loading.pipeline_files import read_object

PACKAGES = {
    "bitsandbytes": "bitsandbytes",
    "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes",
    "gguf": "gguf",
    "quanto": "optimum",
    "torchao": "torchao",
}
"""By a config's `quant_method`: the package that diffusers reads such weights with."""


def folder_problem(
    folder: Path, pipeline: str, family: type[Model], left_out: Collection[str], sized: bool
) -> str | None:
    """Return why a folder cannot be run as this pipeline, None where its files tell of nothing.

    `left_out` are components that are not loaded; `sized` says whether height and width are given. Only the
    name of another family's class is a problem: many a folder bears a class of its own and loads.
    """
    problem = next(_problems(folder, pipeline, family, left_out), None)
    unet = folder / "unet" / "config.json"
    if problem is None and not sized and unet.is_file() and not _read(unet).get("sample_size"):
        return "its UNet tells no size (sample_size); allowed are model.height= and model.width="
    return problem


def _problems(folder: Path, pipeline: str, family: type[Model], left_out: Collection[str]) -> Iterator[str]:
    index = _read(folder / "model_index.json")
    kind = index.get("_class_name")
    if not isinstance(kind, str):
        yield f"its model_index.json names no class ('_class_name': {kind!r})"
    if pipeline in FAMILIES and kind in FAMILIES and kind != pipeline:
        yield f"it holds a {kind}, the model's pipeline is {pipeline}; allowed is model.pipeline={kind}"
    held = [name for name, part in index.items() if isinstance(part, list) and part and part[0]]
    for name in unasked_parts(held, family.own_parts):
        yield f"it has the part {name!r}, which no edit would ask; allowed is a folder without"
    for name in set(family.text_blocks) - set(left_out):
        if not (folder / name).is_dir():
            can = encoder_of(name) in family.can_leave_out
            way = f"; allowed is leave_out=[{encoder_of(name)}]" if can else ""
            yield f"it has no {name}, by which {pipeline} reads its prompts{way}"
    denoiser = _read(folder / "unet" / "config.json") or _read(folder / "transformer" / "config.json")
    vae = _read(folder / "vae" / "config.json") or _read(folder / "vqvae" / "config.json")
    taken, latent = denoiser.get("in_channels"), vae.get("latent_channels", vae.get("z_dim"))
    if isinstance(taken, int) and isinstance(latent, int):
        own = latent * family.latents_per_token
        if taken != own:
            yield (
                f"its denoiser takes {taken} channels, its latents have {own}, as for inpainting or "
                "instructions; allowed is one that takes the latents alone"
            )
    for file in sorted(folder.glob("*/config.json")):
        quantised = _read(file).get("quantization_config")
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        package = PACKAGES.get(str(method))
        if package and importlib.util.find_spec(package) is None:
            part = file.parent.name
            yield f"its {part} is quantised ({method}), for which the package {package} is missing"


def _read(file: Path) -> dict[str, Any]:
    """Return a JSON object, {} where there is no such file."""
    return read_object(file) if file.is_file() else {}
