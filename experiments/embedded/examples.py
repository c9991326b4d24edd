"""What a world's denoiser is trained on: scenes as latents, token ids and masks, rendered by a pool of
processes while the training runs.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from experiments.embedded.worlds import load_world
from experiments.embedded.worlds.contract import Scenes, World
from p2p.alignment import refinement_mapper
from p2p.operators import resolve_operator

CHUNK = 1_000  # scenes that a process renders at a time, two to four seconds of one core
STREAM = 2023  # first number of a chunk's seed; shards of shards.py have 2022


class Rows:
    """Equally many rows of tensors: what a dataclass of these can do."""

    def __len__(self) -> int:
        return len(next(iter(vars(self).values())))

    def take(self, index: Tensor) -> Self:
        """Return the chosen rows."""
        return type(self)(**{name: rows[index] for name, rows in vars(self).items()})


@dataclass(frozen=True)
class Captioned(Rows):
    """Captions of n scenes as token ids, where they name things, and another caption of each scene."""

    ids: Tensor  # (n, tokens) int32
    tokens: Tensor  # (n, slots) int64, where the caption has each named word, 0 where there is none
    covered: Tensor  # (n, slots, 16, 16) uint8, sixteenths of a latent cell that each word is about
    other_ids: Tensor  # (n, tokens) int32, another caption of nearly the same scene
    mapper: Tensor  # (n, tokens) int64, the other caption's token for each of the caption's, -1: none


@dataclass(frozen=True)
class Examples(Captioned):
    """Training examples on one device."""

    latents: Tensor  # (n, 4, 16, 16) float16, scaled means


def with_latents(captioned: Captioned, latents: Tensor) -> Examples:
    """Return the captioned scenes with their latents, on the latents' device."""
    rest = {f.name: getattr(captioned, f.name).to(latents.device) for f in fields(captioned)}
    return Examples(**rest, latents=latents)


def named_tokens(world: World, scenes: Scenes, input_ids: Tensor, tokenizer: CLIPTokenizer) -> Tensor:
    """Return (n, slots): where the caption holds each word that its scene names, 0 where there is none."""
    tokens = torch.zeros(len(scenes.scenes), world.slots, dtype=torch.int64)
    ids: dict[str, int] = {}
    rows = input_ids.tolist()
    for i, scene in enumerate(scenes.scenes):
        for j, (word, _) in enumerate(scene.named()):
            if word:
                number = ids.setdefault(word, tokenizer.convert_tokens_to_ids(f"{word}</w>"))
                tokens[i, j] = rows[i].index(number)
    return tokens


def named_masks(world: World, labels: Tensor, scenes: Scenes, index: Tensor) -> Tensor:
    """Return (batch, slots, 16, 16): the share of each latent cell that a named word is about."""
    about = torch.zeros(len(index), world.slots, 1 + len(world.labels), dtype=torch.bool)
    for row, i in enumerate(index.tolist()):
        for j, (_, numbers) in enumerate(scenes.scenes[i].named()):
            about[row, j, list(numbers)] = True
    chosen = labels[index].long().flatten(1)[:, None].expand(-1, world.slots, -1)
    covered = about.gather(2, chosen).unflatten(2, labels.shape[1:])
    return nn.functional.avg_pool2d(covered.float(), 4)


def covered_cells(world: World, scenes: Scenes) -> Tensor:
    """Return (n, slots, 16, 16) uint8: sixteenths of each latent cell that each named word is about."""
    labels = torch.from_numpy(scenes.labels)
    parts = torch.arange(len(scenes.scenes)).split(CHUNK)  # masks of all at once would need gigabytes
    return torch.cat([(named_masks(world, labels, scenes, part) * 16).byte() for part in parts])


def token_mapper(source_prompt: str, target_prompt: str, tokenizer: CLIPTokenizer) -> Tensor:
    """Return (tokens,) int64: the source's token for each of the target's, -1 where there is none.

    It is what Prompt-to-Prompt's operator "auto" amounts to where every word is one token: with equally many
    words each reads its own place, else refinement aligns them.
    """
    if resolve_operator("auto", source_prompt, target_prompt) == "replace":
        return torch.arange(tokenizer.model_max_length)
    return refinement_mapper(source_prompt, target_prompt, tokenizer)[0]


def caption_scenes(world: World, scenes: Scenes, tokenizer: CLIPTokenizer, seed: Sequence[int]) -> Captioned:
    """Tokenize the scenes' captions, and draw another caption of each."""
    rng = np.random.default_rng(seed)
    captions = [scene.caption() for scene in scenes.scenes]
    others = [world.other(scene, rng).caption() for scene in scenes.scenes]
    encode = {"padding": "max_length", "return_tensors": "pt"}
    ids, other_ids = (tokenizer(texts, **encode).input_ids.int() for texts in (captions, others))
    return Captioned(
        ids=ids,
        tokens=named_tokens(world, scenes, ids, tokenizer),
        covered=covered_cells(world, scenes),
        other_ids=other_ids,
        mapper=torch.stack([token_mapper(o, c, tokenizer) for o, c in zip(others, captions, strict=True)]),
    )


def _start_process() -> None:
    """Compute in one thread, and end with the parent: a killed one cannot tell its processes to."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@cache
def _tokenizer(folder: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(folder)


def _render_chunk(
    world: str, tokenizer: Path, number: int, size: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return a chunk's pictures (n, 64, 64, 3) uint8 and, as arrays, the fields of its `Captioned`."""
    drawn_from = load_world(world)
    scenes = drawn_from.draw(size, (STREAM, number), False)
    captioned = caption_scenes(drawn_from, scenes, _tokenizer(tokenizer), (STREAM, number, 1))
    return scenes.images, {f.name: getattr(captioned, f.name).numpy() for f in fields(captioned)}


class Stream:
    """A growing pool of examples on a device, rendered by other processes while it is drawn from.

    Processes are spawned, not forked: a fork of a process that has used CUDA, or has threads, may hang. A
    chunk depends on its number only; in which order chunks arrive, and so what a step sees, does not repeat.
    """

    def __init__(
        self,
        world: str,
        scenes: int,
        tokenizer: Path,
        encode: Callable[[np.ndarray], Tensor],
        workers: int,
        chunk: int = CHUNK,
    ) -> None:
        """Start rendering. `encode` turns pictures into latents (n, 4, 16, 16), on the device of the pool."""
        sizes = [min(chunk, scenes - start) for start in range(0, scenes, chunk)]
        self.wanted, self.filled = scenes, 0
        self._world, self._tokenizer, self._encode = world, tokenizer, encode
        self._left = list(enumerate(sizes))[::-1]
        self._workers, self._running = workers, set[Future]()
        self._pool: Examples | None = None
        context = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(workers, context, _start_process)
        self._submit()

    def __len__(self) -> int:
        return self.filled

    def take(self, index: Tensor) -> Examples:
        """Return the examples at `index`, positions among the examples that have arrived."""
        assert self._pool is not None
        return self._pool.take(index)

    def wait_for(self, first: int) -> None:
        """Wait until so many examples are there; print a line every ten seconds."""
        said = time.monotonic()
        while self.filled < min(first, self.wanted):
            self.receive(timeout=1)
            if time.monotonic() - said > 10:
                said = time.monotonic()
                print(f"rendering: {self.filled} of the first {first} scenes", flush=True)

    def receive(self, timeout: float = 0) -> None:
        """Put one rendered chunk into the pool, if one is there within `timeout` seconds.

        Where a process dies, what has arrived is gone on with. Raises BrokenProcessPool where nothing has.
        """
        if not self._running:
            return
        done, _ = wait(self._running, timeout, FIRST_COMPLETED)
        if not done:
            return
        future = done.pop()
        self._running.remove(future)
        try:
            images, arrays = future.result()
        except BrokenProcessPool:
            if not self.filled:
                raise
            print(f"rendering stopped: a process died; going on with {self.filled} scenes", flush=True)
            self._left, self._running, self.wanted = [], set(), self.filled
            return
        self._submit()
        captioned = Captioned(**{name: torch.from_numpy(array) for name, array in arrays.items()})
        self._add(with_latents(captioned, self._encode(images)))
        if not self._running:
            self._executor.shutdown()

    def close(self) -> None:
        """Stop rendering; chunks that are being rendered are waited for."""
        self._executor.shutdown(cancel_futures=True)

    def _submit(self) -> None:
        while self._left and len(self._running) < 2 * self._workers:
            try:
                future = self._executor.submit(_render_chunk, self._world, self._tokenizer, *self._left[-1])
            except BrokenProcessPool:  # the chunks that are under way will say so
                return
            self._left.pop()
            self._running.add(future)

    def _add(self, chunk: Examples) -> None:
        if self._pool is None:  # room for all, so that nothing is copied when more arrives
            self._pool = Examples(
                **{
                    f.name: getattr(chunk, f.name).new_empty((self.wanted, *getattr(chunk, f.name).shape[1:]))
                    for f in fields(chunk)
                }
            )
        end = self.filled + len(chunk)
        for f in fields(chunk):
            getattr(self._pool, f.name)[self.filled : end] = getattr(chunk, f.name)
        self.filled = end
