"""What every training script of the embedded world shares: a loop that resumes, and a model card."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

ROOT = Path(__file__).parent
WEIGHTS = ROOT / "weights"
CHECKPOINTS = Path("checkpoints/embedded")


def run_steps(
    name: str,
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
    every `save_every` steps in `checkpoints/embedded/<name>.pt` and read back (tensors only, no pickled code)
    when the script is started again. Each step's randomness must come from the step number, so that a resumed
    run sees what an unbroken one would.
    """
    file = CHECKPOINTS / f"{name}.pt"
    start, spent = 0, 0.0
    base = [group["lr"] for group in optimizer.param_groups]
    if file.exists():
        state = torch.load(file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if ema:
            ema.average.load_state_dict(state["ema"])
        start, spent = state["step"], state["seconds"]
    began = time.monotonic()
    bar = tqdm(range(start, steps), initial=start, total=steps, desc=name, mininterval=10)
    for step in bar:
        for group, lr in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = lr * schedule(step / steps)
        losses = loss_of_step(step)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if ema:
            ema.update(model)
        if step % 50 == 0:
            bar.set_postfix({key: f"{value.item():.4f}" for key, value in losses.items()}, refresh=False)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step + 1,
                "seconds": spent + time.monotonic() - began,
                **({"ema": ema.average.state_dict()} if ema else {}),
            }
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, file.with_suffix(".partial"))
            file.with_suffix(".partial").rename(file)
    return spent + time.monotonic() - began


def native_bf16() -> bool:
    """Say whether the processor computes in bfloat16; emulated, it is several times slower than float32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def mixed_precision() -> torch.autocast:
    """Return a bfloat16 autocast where that is native, else one that does nothing."""
    return torch.autocast("cpu", torch.bfloat16, enabled=native_bf16())


class Ema:
    """An exponential moving average of a model's parameters; `average` holds it."""

    def __init__(self, model: nn.Module, average: nn.Module, decay: float = 0.999) -> None:
        average.load_state_dict(model.state_dict())
        self.average = average.requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model."""
        pairs = zip(self.average.parameters(), model.parameters(), strict=True)
        averages, values = map(list, zip(*pairs, strict=True))
        torch._foreach_lerp_(averages, values, 1 - self.decay)


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


def precision() -> str:
    """Return what `mixed_precision` computes in, for a model card."""
    return "bf16" if native_bf16() else "fp32"


def write_card(folder: Path, title: str, facts: dict[str, object]) -> None:
    """Write a model card (README.md) and the same facts as JSON beside the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"# {title}", "", *(f"- **{key}**: {value}" for key, value in facts.items()), ""]
    (folder / "README.md").write_text("\n".join(lines))
    (folder / "card.json").write_text(json.dumps(facts, indent=1) + "\n")
