"""One run that uses most parts at once, told as plain values: what a change of places and names must keep.

`python -m tests.experiments.mixed_run` makes it again and writes `mixed_run.json`, under the rule for golden
numbers (CONTRIBUTING.md).
"""

import json
import math
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.tiny import save_tiny_pipeline
from tests.tiny_pipelines import save_instruct_pix2pix

STORED = Path(__file__).with_suffix(".json")
STORES = ("records", "settings", "metrics")
NOT_COMPARED = ("seconds", "image_sha256", "image_bytes")  # the compressed bytes are of Pillow and zlib
HOW_IT_WAS_LOADED = ("_name_or_path", "local_files_only")
SAVED_BY = {"_diffusers_version": "0.42.1", "transformers_version": "5.23.0"}


def settle(pipeline: Path) -> Path:
    """Replace a pipeline's random weights by draws that are the same on every processor and torch version.

    Attention is not made sharper than these give: the timesteps' embedding is float32 whatever the precision,
    and its last digits, which are the processor's, would grow to other pictures.
    """
    generator = np.random.Generator(np.random.PCG64(0))
    for file in sorted(pipeline.rglob("*.safetensors")):
        tensors = load_file(file)
        for name, tensor in sorted(tensors.items()):
            if tensor.ndim > 1 or name.endswith(".bias"):
                bound = math.sqrt(3 / tensor[0].numel()) if tensor.ndim > 1 else 0.1
                tensors[name] = torch.from_numpy(generator.uniform(-bound, bound, tensor.shape)).float()
        save_file(tensors, file, metadata={"format": "pt"})
    for file in pipeline.rglob("*config.json"):  # part of the keys; savers note themselves, and where from
        config = json.loads(file.read_text())
        kept = {n: SAVED_BY.get(n, value) for n, value in config.items() if n not in HOW_IT_WAS_LOADED}
        file.write_text(json.dumps(kept))
    return pipeline


def write_inputs(folder: Path) -> Path:
    """Write three pairs, two on a real image with a mask, an ideal and blend words, one on another image."""
    y, x = np.mgrid[0:1:32j, 0:1:32j]
    for name, shift in (("bench", 0.0), ("ideal", 0.7), ("snow", 2.0)):
        wave = 0.5 + 0.5 * np.sin(7 * x + shift)
        picture = (np.stack([x, y, wave], -1) * 255).round().astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{name}.png")
    Image.fromarray(((x > 0.5) * 255).astype(np.uint8)).save(folder / "mask.png")
    bench = {"source_prompt": "a cat on a bench", "image": "bench.png", "mask": "mask.png"}
    pairs: list[dict[str, Any]] = [
        {"id": "dog", "target_prompt": "a dog on a bench", "edit_type": "swap", "blend_words": ["cat", "dog"]}
        | {"ideal": "ideal.png", "instruction": "make the cat a dog", **bench},
        {"id": "hat", "target_prompt": "a cat with a hat on a bench", "edit_type": "add"}
        | {"instruction": "give the cat a hat", **bench},
        {"id": "snow", "source_prompt": "a dog in the snow", "target_prompt": "a dog in the deep snow"}
        | {"weights": {"deep": 2.0}, "image": "snow.png", "instruction": "more snow"},
    ]
    table = folder / "pairs.jsonl"
    table.write_text("\n".join(map(json.dumps, pairs)))
    return table


def overrides(folder: Path) -> list[str]:
    """Return the run's command line, after writing all that it reads into an empty folder."""
    tiny = settle(save_tiny_pipeline(folder / "tiny"))
    other = settle(save_instruct_pix2pix(tiny, folder / "other"))
    return [
        *("model=folder", f"model.path={tiny}", "model.self_max_side=16", "model.dtype=float64"),
        *("device=cpu", "sampling.num_inference_steps=4", "dataset=table"),
        *(f"dataset.path={write_inputs(folder)}", "inversion=direct", "grid=trade_off", "grid.seeds=[0]"),
        *("grid.methods.p2p.tau=[0,0.5,1]", "+grid.methods.p2p.local_blend=[true,false]"),
        *("grid.methods.sdedit.strength=[0.5]", f"+grid.methods.instruct_pix2pix.path={other}"),
        *(
            "+grid.methods.instruct_pix2pix.dtype=float64",
            "metrics=pixel",
            "+metrics.ideal._target_=evaluation.ideal.Ideal",
        ),
        "report=false",  # whose thumbnails are named after bytes that are of Pillow and zlib
        f"run_dir={folder / 'run'}",
    ]


def told(run_dir: Path, inputs: Path) -> dict[str, Any]:
    """Return what a finished run holds: names of files, pictures in outline, rows of every parquet store.

    A path of the inputs' folder is written as `INPUTS`; times are left out.
    """
    files = sorted(path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*") if path.is_file())
    kept = [name for name in files if not name.startswith(("hydra/", "provenance"))]
    # Settings hash the inputs' paths, records their seconds, which also decide how values share files.
    hashed = r"(?<=^settings/)\w+|\d{8}-[0-9a-f]{16}(?=\.parquet$)"
    return {
        "files": [re.sub(hashed, "HASH", name) for name in kept],
        "pixels": {name: pixels(run_dir / name) for name in kept if name.startswith("images/")},
        **{store: rows(run_dir / store, inputs) for store in STORES},
    }


def pixels(picture: Path) -> list[float]:
    """Return a picture's size and the means of its 4x4 parts, by channel; one level of one pixel is 1/64."""
    with Image.open(picture) as image:
        values = np.asarray(image, float).reshape(image.height, image.width, -1)
    parts = values.reshape(4, image.height // 4, 4, image.width // 4, -1).mean((1, 3))
    return [*image.size, *parts.ravel().round(3).tolist()]


def rows(store: Path, inputs: Path) -> list[dict[str, Any]]:
    """Return the rows of a store's files, in an order of their own."""
    frames = [pd.read_parquet(file) for file in sorted(store.rglob("*.parquet"))]
    made = [
        row for frame in frames for row in json.loads(frame.to_json(orient="records", double_precision=15))
    ]
    plain = [
        {
            name: value.replace(str(inputs), "INPUTS") if isinstance(value, str) else value
            for name, value in row.items()
            if name not in NOT_COMPARED
        }
        for row in made
    ]
    return sorted(plain, key=lambda row: json.dumps(row, sort_keys=True))


def main(arguments: Sequence[str]) -> None:
    """Make the run in a temporary folder and store what it holds."""
    from experiments import run

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sys.argv = ["p2p-bench", "run", *overrides(folder)]
        run.main()
        STORED.write_text(json.dumps(told(folder / "run", folder), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
