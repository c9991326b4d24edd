"""One pair given on the command line or in Python."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from experiments.datasets.dataset import Dataset
from experiments.datasets.pair import Pair


@dataclass(frozen=True, kw_only=True)
class Inline(Dataset):
    """The pair of these fields; see `Pair`. Without an `id` it is named after a hash of what it holds."""

    name: str = "inline"
    source_prompt: str
    target_prompt: str
    id: str | None = None
    edit_type: str = ""
    weights: Mapping[str, float] | None = None
    blend_words: tuple[str, str] | None = None
    image: str | Path | None = None
    mask: str | Path | None = None
    instruction: str = ""

    def read(self) -> tuple[Pair]:
        if not isinstance(self.weights, Mapping | None):
            raise ValueError(f"weights = {self.weights!r}: must map words to numbers, as in {{dog: 2}}")
        weights = dict(self.weights or {})
        words = None if self.blend_words is None else _two_texts(self.blend_words)
        content: tuple[object, ...]
        content = (self.source_prompt, self.target_prompt, sorted(weights.items()), words, str(self.image))
        # What is not given leaves names as they are without it.
        content += tuple(str(given) for given in (self.mask, self.instruction) if given)
        digest = hashlib.sha256(repr(content).encode()).hexdigest()[:8]
        pair = Pair(
            self.id or f"inline-{digest}", self.source_prompt, self.target_prompt, self.edit_type,
            weights=weights, blend_words=words, image=_path(self.image), mask=_path(self.mask),
            instruction=self.instruction,
        )  # fmt: skip
        return (pair,)


def _two_texts(words: object) -> tuple[str, str]:
    """Return blend words as a pair. Raises ValueError for numbers, which Hydra makes of unquoted digits."""
    if isinstance(words, list | tuple) and len(words) == 2:
        source, target = words
        if isinstance(source, str) and isinstance(target, str):
            return source, target
    raise ValueError(
        f'blend_words = {words!r}: must be two texts, as in [cat, dog]; a number is one in quotes, ["1", "2"]'
    )


def _path(file: str | Path | None) -> Path | None:
    return None if file is None else Path(file).expanduser()
