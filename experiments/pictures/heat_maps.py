"""Draw where words are attended to, in an image and its edit:
`p2p-bench heat-maps "a cat on the beach" "a dog on the beach" --words cat dog beach`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import diffusers.utils.logging
import transformers.utils.logging

from experiments.datasets.pair import slug
from experiments.embedded.training import WEIGHTS
from p2p import HeatMaps, ModelSpec, PromptToPrompt, Sampling, heat_maps
from results.plots.heat_maps import Row, draw
from results.report.heat_map_files import heat_map_text
from results.store.run_folder import RunFolder


def rows(found: HeatMaps) -> list[Row]:
    """Return the picture's rows: for each group of layers and range of steps the source, then its edit."""
    named = [("source", found.source), *([("edit", found.edited)] if found.edited else [])]
    return [
        Row(f"{name}\nlayers {layers}, steps {start}–{end}", heat.image.numpy(), heat.words, heat.maps[key])
        for key in found.source.maps
        for layers, (start, end) in [key]
        for name, heat in named
    ]


def parser() -> argparse.ArgumentParser:
    """Return the command line's options."""
    options = argparse.ArgumentParser(
        prog="p2p-bench heat-maps",
        description="Draw where words of a prompt are attended to.",
    )
    add = options.add_argument
    add("source_prompt")
    add("target_prompt", nargs="?", help="of an edit by Prompt-to-Prompt; without it only the source is made")
    add("--words", nargs="+", required=True, metavar="WORD", help="words or phrases of either prompt")
    add("--tau", type=float, default=0.2, help="of the edit (default %(default)s)")
    add(
        "--blend-words",
        nargs=2,
        metavar="WORD",
        help="the area of the edit, by the source's and target's word",
    )
    add("--layers", nargs="+", metavar="GROUP", help="16, down-16, mid-8, up-16, ... (default: every side)")
    add(
        "--steps",
        nargs="+",
        type=step_range,
        metavar="START-END",
        help="ranges of steps (default: all steps)",
    )
    add("--heads", nargs="+", metavar="HEAD", help="0, 3..7, no-2, ... whose mean is drawn (default: all)")
    add("--seed", type=int, default=0)
    add("--num-inference-steps", type=int, default=50)
    add("--guidance-scale", type=float, default=7.5)
    add(
        "--model", default="embedded", help="'embedded', or a pipeline's folder or name (default %(default)s)"
    )
    add("--self-max-side", type=int, default=None, help="of another model (default 32)")
    add("--blend-side", type=int, default=16, help="(default %(default)s)")
    add("--device", default="auto")
    place = options.add_mutually_exclusive_group()
    place.add_argument("--out", type=Path, help="the picture (default runs/heat_maps/<prompts>-<seed>.png)")
    place.add_argument(
        "--run", type=Path, metavar="RUN_DIR", help="put it into that run, whose report shows it by its pair"
    )
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the images, draw their maps, print the picture's path; return the exit code, 2 for wrong input."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    options = parser().parse_args(arguments)
    embedded = options.model == "embedded"
    name = slug(f"{options.source_prompt} to {options.target_prompt or ''}")
    folder = RunFolder(options.run).heat_maps if options.run else Path("runs", "heat_maps")
    out = options.out or folder / f"{name}-{options.seed}.png"
    try:
        if options.run and not options.run.is_dir():
            raise FileNotFoundError(f"--run {options.run}: no such run folder")
        if not 0 <= options.seed < 2**32:
            raise ValueError(f"seed: {options.seed} is not a whole number in [0, 2^32)")
        method = PromptToPrompt(tau=options.tau)
        model = ModelSpec(
            options.model,
            str(WEIGHTS / "pipeline") if embedded else options.model,
            self_max_side=options.self_max_side or (16 if embedded else 32),
            blend_side=options.blend_side,
            dtype="float32" if embedded else None,
            device=options.device,
        ).load()
        edit = (options.target_prompt, method) if options.target_prompt else None
        found = heat_maps(
            model,
            options.source_prompt,
            options.words,
            edit,
            seed=options.seed,
            sampling=Sampling(options.num_inference_steps, options.guidance_scale),
            layers=options.layers,
            steps=options.steps,
            heads=options.heads,
            blend_words=tuple(options.blend_words) if options.blend_words else None,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    of = heat_map_text(options.source_prompt, options.target_prompt or "", options.seed, options.words)
    out.parent.mkdir(parents=True, exist_ok=True)
    metadata = of if out.suffix.lower() == ".png" else None
    draw(rows(found), options.words).savefig(out, dpi=150, metadata=metadata)
    print(out)
    return 0


def step_range(text: str) -> tuple[int, int]:
    """Read "0-25" as the steps [0, 25)."""
    start, _, end = text.partition("-")
    return int(start), int(end)


if __name__ == "__main__":
    sys.exit(main())
