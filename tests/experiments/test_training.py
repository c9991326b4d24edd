"""How long the embedded denoiser is trained, how it goes on where it stood, and its command line."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from experiments.embedded.denoiser import build_text_encoder, build_unet, save_pipeline
from experiments.embedded.input_errors import InputError
from experiments.embedded.train_diffusion import DiffusionRecipe, parse
from experiments.embedded.training import WEIGHTS, Ema, ResumeError, Timetable, cosine, run_minutes
from tests.experiments.training_parts import embedded_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return embedded_tokenizer()


def test_a_slow_start_costs_time_and_no_warm_up() -> None:
    timetable = Timetable(start=50, end=362, reserve=2)  # began at 2, ready at 50
    assert timetable.progress(50) == 0
    assert timetable.progress(205) == pytest.approx(0.5)
    assert timetable.progress(360) == 1
    assert timetable.progress(400) == 1


def test_a_resumed_training_spreads_what_is_left_over_the_time_that_is_left() -> None:
    timetable = Timetable(start=1000, end=1100, done=0.6, reserve=0)
    assert timetable.progress(1000) == pytest.approx(0.6)
    assert timetable.progress(1050) == pytest.approx(0.8)
    assert timetable.progress(1100) == 1
    assert Timetable(start=1000, end=990, done=0.6).progress(1000) == 1  # the time was over before it started


def test_progress_never_falls_where_saves_take_longer_and_longer() -> None:
    timetable = Timetable(start=0, end=100)
    seen = []
    for now in range(0, 80, 2):
        seen.append(timetable.progress(now))
        timetable.saved(now / 8 if now % 4 else 0.1)
    assert all(a < b for a, b in pairwise(seen))
    assert timetable.reserve == pytest.approx(1.5 * 78 / 8)


@dataclass
class Fake:
    """A training of one number towards 3 by a clock that only its steps and saves move."""

    folder: Path
    step_seconds: float = 0.5
    save_seconds: float = 4.0
    fails_at: int | None = None
    now: float = 100.0

    def __post_init__(self) -> None:
        self.rates: list[float] = []
        self.saves: list[float] = []
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.model.weight)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1, weight_decay=0)

    def loss(self, step: int) -> dict[str, Tensor]:
        if step == self.fails_at:
            raise KeyboardInterrupt
        self.now += self.step_seconds
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        return {"distance": (self.model.weight - 3).square().sum()}

    def saved(self, steps: int, seconds: float) -> None:
        self.saves.append(self.now)
        self.now += self.save_seconds

    def run(
        self,
        minutes: float = 6.0,
        loss: Callable[[int], dict[str, Tensor]] | None = None,
        began: float | None = None,
        **settings: object,
    ) -> int:
        average = nn.Linear(1, 1, bias=False)
        steps, _ = run_minutes(
            self.folder / "training.pt",
            minutes,
            self.now if began is None else began,
            self.model,
            self.optimizer,
            lambda progress: 1 - progress,
            loss or self.loss,
            Ema(self.model, average),
            settings,
            self.saved,
            clock=lambda: self.now,
        )
        return steps


def test_it_ends_on_time_with_the_rate_at_nought_and_saves_every_minute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = Fake(tmp_path)
    fake.run(minutes=6, began=80)  # 20 s went by before the first step
    assert 80 + 355 < fake.now <= 80 + 360
    assert fake.rates[0] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(fake.rates))
    assert fake.rates[-1] < 0.001
    assert len(fake.saves) == 6
    assert all(60 <= b - a < 66 for a, b in pairwise(fake.saves[:-1]))
    assert float(fake.model.weight.detach()) == pytest.approx(3, abs=0.05)
    lines = capsys.readouterr().out.splitlines()
    assert 25 < len(lines) < 40  # one in ten seconds
    assert "2.00 steps/s" in lines[0]
    assert "5.50 minutes left" in lines[0]


def test_a_training_that_was_broken_off_goes_on_where_it_stood(tmp_path: Path) -> None:
    first = Fake(tmp_path, fails_at=300)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    kept = torch.load(tmp_path / "training.pt", weights_only=True)
    second = Fake(tmp_path, now=9_000.0)
    steps = second.run()
    # The rate goes on from the checkpoint's progress, and the minutes left are those it had not spent.
    assert second.rates[0] == pytest.approx(0.1 * (1 - kept["progress"]))
    assert kept["step"] + len(second.rates) == steps
    assert second.now - 9_000 + kept["seconds"] == pytest.approx(360, abs=4)
    assert second.rates[-1] < 0.001
    assert float(second.model.weight.detach()) == pytest.approx(3, abs=0.05)


def test_a_training_that_has_ended_is_not_trained_further(tmp_path: Path) -> None:
    steps = Fake(tmp_path).run(minutes=2)
    again = Fake(tmp_path)
    assert again.run(minutes=4) == steps
    assert again.rates == []


def test_a_training_with_no_time_left_is_kept_for_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        Fake(tmp_path, fails_at=300).run()
    kept = torch.load(tmp_path / "training.pt", weights_only=True)
    late = Fake(tmp_path, now=1_000.0)
    assert late.run(began=700) == kept["step"]  # rendering took the rest
    assert "give more minutes" in capsys.readouterr().out
    assert Fake(tmp_path).run(minutes=8) > kept["step"] + 400


def test_a_checkpoint_of_other_settings_is_an_error_that_names_them(tmp_path: Path) -> None:
    Fake(tmp_path).run(minutes=1, channels=[16, 32], seed=0)
    with pytest.raises(ResumeError, match=r"channels \[16, 32\], now \[64, 160\]"):
        Fake(tmp_path).run(minutes=1, channels=[64, 160], seed=0)


def test_a_loss_that_is_not_finite_ends_the_training_and_keeps_the_good_state(tmp_path: Path) -> None:
    fake = Fake(tmp_path)

    def loss(step: int) -> dict[str, Tensor]:
        return {name: value * (math.nan if step > 250 else 1) for name, value in fake.loss(step).items()}

    with pytest.raises(ValueError, match="not finite"):
        fake.run(loss=loss)
    kept = torch.load(tmp_path / "training.pt", weights_only=True)
    assert kept["model"]["weight"].isfinite().all()


def test_the_average_forgets_the_untrained_weights() -> None:
    model, average = nn.Linear(1, 1), nn.Linear(1, 1)
    ema = Ema(model, average)
    nn.init.constant_(model.weight, 5.0)
    for step in range(50):
        ema.update(model, step)
    assert float(average.weight) == pytest.approx(5, abs=0.01)


def test_the_schedule_warms_up_stays_and_falls_to_nought() -> None:
    rates = [cosine(p / 1000, flat=0.35, warm_up=0.03) for p in range(1001)]
    assert rates[0] < 0.01
    assert rates[30] == pytest.approx(1)
    assert rates[350] == pytest.approx(1)
    assert rates[675] == pytest.approx(0.5, abs=0.01)
    assert rates[-1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"minutes": 0.0}, "minutes: 0.0, allowed is a number above 0"),
        ({"device": "nonsense"}, "device: 'nonsense' cannot be used"),
        ({"channels": (64, 100)}, "channels: 64,100, allowed are two multiples of 16"),
        ({"channels": (64, 160), "further": True}, "those of the shipped weights are kept"),
        ({"taken_share": 1.5}, "taken_share: 1.5, allowed is a number in"),
        ({"sink_share": 1.0}, "sink_share: 1.0, allowed is a number in"),
        ({"sink": -1.0}, "sink: -1.0, allowed is 0 or more"),
        ({"thing_weight": -1.0}, "thing_weight: -1.0, allowed is 0 or more"),
        ({"batch_size": 0}, "batch_size: 0, allowed is 1 or more"),
        ({"out": WEIGHTS / "pipeline"}, "holds the shipped weights, which ship alone replaces"),
        ({"out": WEIGHTS.parent}, "is no pipeline"),
    ],
)
def test_what_cannot_be_is_one_line(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match="^[^\n]+$") as error:
        DiffusionRecipe(**wrong)
    if "out" in wrong and wrong["out"] == WEIGHTS.parent:
        return  # it lies above the shipped weights and is no pipeline
    assert message in str(error.value)


def test_the_command_line_ends_with_one_line_where_it_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(["--minutes", "-1"])
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("minutes: -1.0, allowed is a number above 0")


def test_every_option_reaches_the_recipe() -> None:
    given = ("--minutes=6", "--channels=64,192", "--padding=positions", "--precision=fp32", "--no-quality")
    recipe = parse(given)
    assert (recipe.minutes, recipe.channels, recipe.padding) == (6.0, (64, 192), "positions")
    assert (recipe.bf16, recipe.quality, recipe.rows, recipe.steps) == (False, False, 32, 6_000)
    assert parse([]) == DiffusionRecipe()


def test_weights_are_replaced_as_a_whole_and_load_again(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    from p2p import ModelSpec

    vae = AutoencoderKL.from_pretrained(WEIGHTS / "pipeline" / "vae", dtype=torch.float32)
    model = nn.ModuleDict(
        {"unet": build_unet((16, 32), 128), "text_encoder": build_text_encoder(tokenizer, (128, 3, 4))}
    )
    for steps in (1, 2):
        save_pipeline(tmp_path / "pipeline", model, vae, tokenizer, "Pipeline", {"recipe": f"{steps} steps"})
    assert [f.name for f in tmp_path.iterdir()] == ["pipeline"]
    assert "2 steps" in (tmp_path / "pipeline" / "README.md").read_text()
    assert next(model.parameters()).dtype == torch.float32  # the training goes on in single precision
    assert vae.dtype == torch.float32
    spec = ModelSpec("trained", str(tmp_path / "pipeline"), self_max_side=16, blend_side=16, device="cpu")
    assert spec.load().attention_sides() == [16, 8]
    text = (tmp_path / "pipeline" / "unet" / "config.json").read_text()
    assert str(WEIGHTS) not in text
