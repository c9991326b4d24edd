"""Word heat-maps of a run's pairs: pictures in `heat_maps/` that say in their text what they are of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from results.store.run_folder import RunFolder

SOURCE, TARGET, SEED, TITLE = "Source prompt", "Target prompt", "Seed", "Title"  # keys of a PNG's text


def heat_map_text(source_prompt: str, target_prompt: str, seed: int, words: Sequence[str]) -> dict[str, str]:
    """Return the text of a PNG that says which pair's heat-maps it shows; `target_prompt` is "" for none."""
    told = f"Where {', '.join(words)} {'is' if len(words) == 1 else 'are'} attended to"
    return {SOURCE: source_prompt, TARGET: target_prompt, SEED: str(seed), TITLE: told}


def heat_map_files(run_dir: Path) -> list[dict[str, Any]]:
    """Return the run's word heat-maps: file, source and target prompt ("" without an edit), seed, title.

    A file that cannot be read, or does not say what it is of, is left out.
    """
    found = []
    for file in sorted(RunFolder(run_dir).heat_maps.glob("*.png")):
        try:
            with Image.open(file) as picture:
                told, size = dict(picture.info), picture.size
            found.append(
                {
                    "file": file.relative_to(run_dir).as_posix(),
                    "source_prompt": str(told[SOURCE]),
                    "target_prompt": str(told[TARGET]),
                    "seed": int(told[SEED]),
                    "title": str(told[TITLE]),
                    "size": list(size),
                }
            )
        except (OSError, SyntaxError, KeyError, ValueError):
            continue
    return found
