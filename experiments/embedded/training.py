"""What every training script shares: a loop that resumes, and a model card."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from experiments.embedded.input_errors import InputError
from results.store.whole_files import whole_file

ROOT = Path(__file__).parent
WEIGHTS = ROOT / "weights"
CHECKPOINTS = Path("checkpoints/embedded")


def run_steps(
    file: Path,
    steps: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[float], float],
    loss_of_step: Callable[[int], dict[str, Tensor]],
    ema: "Ema | None" = None,
    save_every: int = 500,
) -> float:
    """Minimise the sum of `loss_of_step(step)`; return the seconds spent, over all resumed runs.

    `schedule` maps progress in [0, 1] to a factor on every group's base learning rate. The state is kept
    every `save_every` steps in `file` and read back (tensors only, no pickled code)
    when the script is started again. Each step's randomness must come from the step number, so that a resumed
    run sees what an unbroken one would.
    """
    start, spent = 0, 0.0
    base = [group["lr"] for group in optimizer.param_groups]
    if file.exists():
        state = _restore(file, model, optimizer, ema)
        start, spent = state["step"], state["seconds"]
    began = time.monotonic()
    bar = tqdm(range(start, steps), initial=start, total=steps, desc=file.stem, mininterval=10)
    for step in bar:
        losses = _step(step, schedule(step / steps), base, model, optimizer, loss_of_step)
        if ema:
            ema.update(model)
        if step % 50 == 0:
            bar.set_postfix({key: f"{value.item():.4f}" for key, value in losses.items()}, refresh=False)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            numbers = {"step": step + 1, "seconds": spent + time.monotonic() - began}
            _save(file, model, optimizer, ema, numbers)
    return spent + time.monotonic() - began


@dataclass
class Timetable:
    """How far a training is that has to end on time, whatever its start cost or how often it is resumed.

    `done` was reached by earlier runs; the rest of [0, 1] is spread evenly over the time from `start`, the
    first step of this run, to `end`, less the `reserve` for the last save. All in seconds of one clock.
    """

    start: float
    end: float
    done: float = 0.0
    reserve: float = 2.0

    def progress(self, now: float) -> float:
        """Return the progress in [0, 1]; 1 means that the time is over."""
        left = self.end - self.reserve - self.start
        if left <= 0:
            return 1.0
        return min(1.0, self.done + (1 - self.done) * (now - self.start) / left)

    def saved(self, seconds: float) -> None:
        """Learn from a save how long the last may take; the reserve only grows, so progress never falls."""
        self.reserve = max(self.reserve, 1.5 * seconds)


def run_minutes(
    file: Path,
    minutes: float,
    began: float,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[float], float],
    loss_of_step: Callable[[int], dict[str, Tensor]],
    ema: "Ema",
    settings: Mapping[str, object],
    on_save: Callable[[int, float], None],
    clock: Callable[[], float] = time.monotonic,
) -> tuple[int, float]:
    """Minimise the sum of `loss_of_step(step)` for so many minutes; return the steps and the seconds spent.

    The minutes count from `began`, a reading of `clock` that may lie before the model was built, and over all
    resumed runs; the last save lies within them. `schedule` maps the progress of that time in [0, 1] to a
    factor on every group's base learning rate. Once a minute and at the end the state is kept in `file`, from
    which the next call with equal `settings` resumes, and `on_save(steps, seconds)` is called. A line every
    ten seconds says how it goes. Raises ResumeError where the file is of other settings, and ValueError where
    the loss is no longer finite.
    """
    base = [group["lr"] for group in optimizer.param_groups]
    step, spent, done = 0, 0.0, 0.0
    if file.exists():
        state = _restore(file, model, optimizer, ema, settings)
        step, spent, done = state["step"], state["seconds"], state["progress"]
        print(f"{file}: {step} steps, {spent / 60:.1f} of {minutes:g} minutes are spent", flush=True)
        if done >= 1:
            print("this training has ended; move that file away to start another", flush=True)
    start = said = saved = now = clock()
    timetable = Timetable(start, began + 60 * minutes - spent, done)
    first = said_step = step
    longest = 0.0

    def save(progress: float) -> None:
        before = clock()
        numbers = {"step": step, "seconds": spent + before - began, "progress": progress}
        _save(file, model, optimizer, ema, {**numbers, "settings": dict(settings)})
        on_save(step, spent + before - began)
        timetable.saved(clock() - before)

    while timetable.progress(now + longest) < 1:
        losses = _step(step, schedule(timetable.progress(now)), base, model, optimizer, loss_of_step)
        ema.update(model, step)
        step += 1
        before, now = now, clock()
        longest = max(0.9 * longest, now - before)  # a step that would end too late is not begun
        if now - said >= 10:
            left, speed = (timetable.end - now) / 60, (step - said_step) / (now - said)
            shown = _shown(losses, step)
            print(f"step {step}: {speed:.2f} steps/s, {shown}, {left:.2f} minutes left", flush=True)
            said, said_step = now, step
        if now - saved >= 60:
            _shown(losses, step)  # what is no longer finite does not replace what was
            save(timetable.progress(now))
            now = saved = clock()
    if step > first:
        save(1.0)
    elif done < 1:
        print("no time is left for a step; give more minutes", flush=True)
    return step, spent + clock() - began


class ResumeError(InputError):
    """A checkpoint is of another training than the one that is asked for."""


def check_resumable(file: Path, settings: Mapping[str, object]) -> None:
    """Raise ResumeError where there is a checkpoint of a training with other settings, more or fewer too."""
    if not file.exists():
        return
    kept = torch.load(file, map_location="cpu", weights_only=True, mmap=True).get("settings", {})
    names = dict.fromkeys([*settings, *kept])
    other = [f"{k} {kept.get(k)!r}, now {settings.get(k)!r}" for k in names if kept.get(k) != settings.get(k)]
    if other:
        raise ResumeError(f"{file} is of another training ({'; '.join(other)}): move it, or give another out")


def _step(
    step: int,
    factor: float,
    base: Sequence[float],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of_step: Callable[[int], dict[str, Tensor]],
) -> dict[str, Tensor]:
    for group, lr in zip(optimizer.param_groups, base, strict=True):
        group["lr"] = lr * factor
    losses = loss_of_step(step)
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return losses


def _shown(losses: Mapping[str, Tensor], step: int) -> str:
    """Return the losses as text. Raises ValueError where one is not finite."""
    values = {name: value.item() for name, value in losses.items()}
    shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
    if not all(map(math.isfinite, values.values())):
        raise ValueError(f"loss at step {step} is not finite: {shown}; allowed are finite numbers")
    return shown


def _restore(
    file: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: "Ema | None",
    settings: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    if settings is not None:
        check_resumable(file, settings)
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if ema:
        ema.average.load_state_dict(state["ema"])
    return state


def _save(
    file: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: "Ema | None",
    numbers: Mapping[str, object],
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        **numbers,
        **({"ema": ema.average.state_dict()} if ema else {}),
    }
    with whole_file(file) as partial:
        torch.save(state, partial)


def native_bf16(device: str = "cpu") -> bool:
    """Say whether the device computes in bfloat16; emulated, it is several times slower than float32."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def mixed_precision(device: str = "cpu", bf16: bool | None = None) -> torch.autocast:
    """Return a bfloat16 autocast, or one that does nothing; None: bfloat16 where it is native."""
    return torch.autocast(
        torch.device(device).type, torch.bfloat16, enabled=native_bf16(device) if bf16 is None else bf16
    )


def check_device(device: str) -> None:
    """Raise InputError for a device that torch does not know or cannot use here."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        cause = str(error).splitlines()[0]
        raise InputError(f"device: {device!r} cannot be used ({cause}); allowed are cpu, cuda, ...") from None


def check_out(out: Path, weights: Path) -> None:
    """Raise InputError for a folder that no pipeline may be written to; `weights` are the shipped ones."""
    if out.resolve().is_relative_to(weights.resolve()):
        raise InputError(f"out: {out} holds the shipped weights, which ship alone replaces")
    if out.exists() and not (out / "model_index.json").is_file():
        raise InputError(f"out: {out} is no pipeline, allowed is a new folder or an earlier training's")


def decayed(model: nn.Module, weight_decay: float = 0.01) -> list[dict[str, Any]]:
    """Return an optimizer's groups: what is trained, with weight decay but on vectors."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
    ]


def hardware(device: str = "cpu") -> str:
    """Return what the device is, for a model card."""
    gpu = torch.device(device).type == "cuda"
    return torch.cuda.get_device_name(device) if gpu else f"{torch.get_num_threads()} CPU threads"


class Ema:
    """An exponential moving average of a model's parameters; `average` holds it."""

    def __init__(self, model: nn.Module, average: nn.Module, decay: float = 0.999) -> None:
        average.load_state_dict(model.state_dict())
        self.average = average.requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int | None = None) -> None:
        """Move the average towards the model.

        Told the number of earlier updates, it forgets the untrained weights sooner: the decay is at most
        (1 + step) / (10 + step).
        """
        decay = self.decay if step is None else min(self.decay, (1 + step) / (10 + step))
        pairs = zip(self.average.parameters(), model.parameters(), strict=True)
        averages, values = map(list, zip(*pairs, strict=True))
        torch._foreach_lerp_(averages, values, 1 - decay)


def cosine(progress: float, flat: float = 0.0, warm_up: float = 0.02) -> float:
    """Return the learning-rate factor: linear warm-up, flat until `flat`, then a cosine to 0."""
    if progress < warm_up:
        return (progress + 1e-4) / warm_up
    if progress < flat:
        return 1.0
    start = max(flat, warm_up)
    return 0.5 + 0.5 * torch.cos(torch.tensor(torch.pi * (progress - start) / (1 - start))).item()


def batches(n: int, size: int, step: int, seed: int) -> Tensor:
    """Return the indices of batch number `step` of an endless, epoch-wise shuffled pass over n items."""
    per_epoch = n // size
    epoch, position = divmod(step, per_epoch)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
    return order[position * size : (position + 1) * size]


def earlier(folder: Path, key: str) -> str:
    """Return, for further training's card, what the card of the weights it started from says, or nothing."""
    file = folder / "card.json"
    return f"; before that: {json.loads(file.read_text())[key]}" if file.exists() else ""


def precision(device: str = "cpu", bf16: bool | None = None) -> str:
    """Return what `mixed_precision` computes in, for a model card."""
    return "bf16" if (native_bf16(device) if bf16 is None else bf16) else "fp32"


def write_card(folder: Path, title: str, facts: dict[str, object]) -> None:
    """Write a model card (README.md) and the same facts as JSON beside the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"# {title}", "", *(f"- **{key}**: {value}" for key, value in facts.items()), ""]
    (folder / "README.md").write_text("\n".join(lines))
    (folder / "card.json").write_text(json.dumps(facts, indent=1) + "\n")
