"""Which device a run takes, in which precision, and what happens where its memory runs out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

import experiments.job
import p2p.devices
from results.store.records import load_records
from tests.experiments.command import Cli


def short_of_memory(monkeypatch: pytest.MonkeyPatch, rows: int) -> list[int]:
    """Let autoencoders run out of memory above a number of rows; return the rows of calls that went well."""
    decode, made = AutoencoderKL.decode, []

    def limited(vae: AutoencoderKL, latents: torch.Tensor, **options: Any) -> Any:
        if len(latents) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nOf 3.")
        made.append(len(latents))
        return decode(vae, latents, **options)

    monkeypatch.setattr(AutoencoderKL, "decode", limited)
    return made


@pytest.mark.usefixtures("no_tables")
def test_where_memory_is_too_short_for_one_image_the_group_fails_with_that_and_the_next_call_retries(
    cli: Cli, tiny: list[str], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        short_of_memory(patch, rows=0)
        assert cli("run", *tiny) == 1
    records = load_records(run_dir)
    cause = "memory ran out (CUDA out of memory. Tried to allocate 2.00 GiB.)"
    assert set(records["status"]) == {"failed"}
    assert set(records["error"]) == {f"OutOfMemoryError: autoencoder: to decode one image: {cause}"}
    made = short_of_memory(monkeypatch, rows=1)
    assert cli("run", *tiny) == 0
    assert set(load_records(run_dir)["status"]) == {"ok"}
    assert set(made) == {1}


@pytest.mark.parametrize(
    ("given", "device", "dtype", "metrics"),
    [
        (["model=sd14"], "cuda", "float16", "cuda"),
        (["model=sd14", "device=cpu"], "cpu", "float32", "cpu"),
        (["model=sd14", "model.dtype=float32", "metrics_device=cpu"], "cuda", "float32", "cpu"),
        (["model=sd14", "metrics_device=cuda:1"], "cuda", "float16", "cuda:1"),
        (["model=embedded"], "cuda", "float32", "cuda"),
        (["experiment=pie_bench_main", "dataset.path=somewhere"], "cuda", "float32", "cuda"),
    ],
)
def test_metrics_run_where_the_model_does_and_gpus_get_half_precision_where_nothing_is_said(
    given: list[str],
    device: str,
    dtype: str,
    metrics: str,
    cli: Cli,
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    switched: list[int] = []
    monkeypatch.setattr(p2p.devices, "exact_float32", lambda: switched.append(1))
    jobs: list[experiments.job.Job] = []

    def stop(job: experiments.job.Job) -> None:
        jobs.append(job)
        raise ValueError("enough is known")

    monkeypatch.setattr(experiments.job, "make_ready", stop)
    assert cli("run", *given, f"run_dir={run_dir}") == 2
    [job] = jobs
    told = job.config["model"]
    assert (told["device"], told["dtype"], job.model.dtype) == (device, dtype, dtype)
    assert {metric.device for metric in job.metrics} == {metrics}
    assert bool(switched) == metrics.startswith("cuda")


def test_a_plan_may_be_of_a_machine_with_another_device(
    cli: Cli, tiny: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli("plan", *tiny, "device=cuda", "estimate=true") == 0
    out = capsys.readouterr().out
    assert "model on cuda in float16, metrics on cuda" in out
    assert "time unknown: device: 'cuda' is not on this machine, allowed are " in out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("device=tpu", "device: 'tpu' is not one of auto, cuda, mps, cpu; on this machine there are auto, "),
        ("device=cuda", "device: 'cuda' is not on this machine, allowed are auto, cpu"),
        ("metrics_device=cuda", "metrics.pixel.device: 'cuda' is not on this machine, allowed are auto, cpu"),
        ("model.dtype=half", "dtype: 'half' is not one of"),
    ],
)
def test_a_device_that_is_not_there_is_one_line(
    override: str,
    message: str,
    cli: Cli,
    tiny: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert cli("run", *tiny, override) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
