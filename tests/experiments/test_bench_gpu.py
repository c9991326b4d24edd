"""The GPU benchmark rehearsed on a CPU: every figure runs, is reported or says what it needs, and one that
breaks takes no other with it.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.bench import edit, gpu, gpu_fast, gpu_right, report
from experiments.bench.measuring import Clock, Measured, Ratio
from experiments.bench.shapes import SHAPES, XL_SHAPES, random_pipeline, random_xl_pipeline
from experiments.bench.synchronisations import count_synchronisations

CLOCK = Clock(torch.device("cpu"))
REHEARSAL = ["--quick", "--device", "cpu"]
JUNIT = """<testsuites><testsuite>
<testcase classname="tests.gpu.test_engine" name="test_a[x]"/><testcase classname="c" name="b"/>
<testcase classname="c" name="d"><failure message="no">off</failure></testcase>
<testcase classname="c" name="e"><skipped message="not here"/></testcase>
</testsuite></testsuites>"""


def quiet(text: str) -> None:
    """Say nothing."""


def read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "bench_gpu.json").read_text())
    return content


@pytest.mark.slow
def test_the_engines_figures_run_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Time is measured anywhere; memory and waits, which CUDA alone can tell, say what they need."""
    keys = ["edit_vs_plain_time", "sweep_speedup", "sdxl_edit_vs_plain_time", "waits_per_step"]
    assert gpu.main([*REHEARSAL, "--only", *keys, "--out", str(tmp_path)]) == 0
    found = read(tmp_path)
    assert set(found["figures"]) == {*keys[:3], "materialised_vs_plain_time"}
    assert all(value > 0 for value in found["figures"].values())
    memory = ("edit_vs_plain_memory", "materialised_vs_plain_memory", "sdxl_edit_vs_plain_memory")
    assert found["missing"] == dict.fromkeys([*memory, "waits_per_step"], "needs CUDA")
    assert found["failed"] == {}
    assert found["details"]["sweep_evaluations_saved"] > 1
    assert max(found["details"]["sweep_mean_difference"]) < 0.01  # the tree's image is the naive loop's
    assert found["machine"]["versions"] == report.versions()
    printed = capsys.readouterr().out
    assert "| waits_per_step | needs CUDA |  | <= 0.0 |" in printed
    assert printed.splitlines()[-1] == str(tmp_path / "bench_gpu.json")


@pytest.mark.slow
def test_compiled_and_eager_edits_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2p.compiling.BACKEND", "eager")
    assert gpu.main([*REHEARSAL, "--only", "compiled_speedup", "--out", str(tmp_path)]) == 0
    found = read(tmp_path)
    assert found["figures"]["compiled_speedup"] > 0
    assert found["details"]["compiled_largest_difference_of_latents"] < 1e-3


def test_the_evaluation_agrees_with_torchmetrics(tmp_path: Path) -> None:
    """The measurement itself compares every column, and raises where one differs."""
    assert gpu.main([*REHEARSAL, "--only", "evaluation_speedup", "--out", str(tmp_path)]) == 0
    assert set(read(tmp_path)["figures"]) == {f"evaluation_speedup{f}" for f in ("", "_clip", "_lpips")}


def test_the_report_is_written_after_every_figure_and_one_that_breaks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[dict[str, Any]] = []

    def broken(say: gpu.Say) -> Measured:
        seen.append(read(tmp_path))
        raise RuntimeError("kernel: not built\nfor this | device")

    def last(say: gpu.Say) -> Measured:
        seen.append(read(tmp_path))
        return Measured({"sweep_speedup": Ratio.of([7.0])})

    offered = {
        "right": (("right",), lambda say: Measured({"right": Ratio.of([1.0])})),
        "edit": (("edit_vs_plain_time", "edit_vs_plain_memory"), broken),
        "sweep": (("sweep_speedup",), last),
    }
    monkeypatch.setattr(gpu, "measurements", lambda quick, clock: offered)
    assert gpu.main([*REHEARSAL, "--out", str(tmp_path)]) == 1
    cause = "RuntimeError: kernel: not built for this | device"
    assert [one["figures"] for one in seen] == [{"right": 1.0}, {"right": 1.0}]
    assert [one["failed"] for one in seen] == [{}, {"edit": cause}]
    found = read(tmp_path)
    assert found["figures"] == {"right": 1.0, "sweep_speedup": 7.0}
    assert found["missing"] == dict.fromkeys(offered["edit"][0], f"failed: {cause}")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| edit")]
    assert [row.count("|") for row in rows] == [7, 7]
    assert not list(tmp_path.glob("*.partial"))


def test_a_failed_test_is_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = {"right": (("right",), lambda say: Measured({"right": Ratio.of([0.98])}))}
    monkeypatch.setattr(gpu, "measurements", lambda quick, clock: offered)
    assert gpu.main([*REHEARSAL, "--out", str(tmp_path)]) == 1


def test_every_key_has_a_meaning_and_goals_are_of_keys() -> None:
    keys = {key for some, _ in gpu.measurements(False, CLOCK).values() for key in some}
    assert keys == set(gpu.MEANING) >= set(gpu.GOALS)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "speed"], "--only: 'speed' is not one of right, "),
        (["--device", "cpu"], "--device: 'cpu' is not allowed, it is cuda, or cpu with --quick"),
        (["--device", "tpu", "--quick"], "--device: 'tpu' is not allowed"),
    ],
)
def test_wrong_options_are_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        gpu.main(arguments)
    assert told in capsys.readouterr().err


def test_without_cuda_the_command_says_what_it_can_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "sees no CUDA device; allowed without one is --quick --device cpu" in capsys.readouterr().err
    with pytest.raises(ValueError, match="device: torch sees no CUDA device"):
        count_synchronisations(lambda: None)


def test_tests_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "tests.xml"
    file.write_text(JUNIT)
    measured = gpu_right.counted(file, quiet)
    assert measured.figures["right"].value == pytest.approx(2 / 3)
    counts = [measured.details[f"tests_{how}"] for how in ("passed", "failed", "skipped")]
    assert counts == [2, 1, 1]
    assert measured.details["tests_that_failed"] == ["c.d"]
    file.write_text('<testsuite><testcase name="e"><skipped message="no CUDA"/></testcase></testsuite>')
    with pytest.raises(RuntimeError, match=r"none of tests/gpu ran \(no CUDA\)"):
        gpu_right.counted(file, quiet)


def test_the_tests_run_on_the_device_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of their own, told the device; one that hangs is ended and told."""
    calls: list[tuple[list[str], dict[str, Any]]] = []

    def run(command: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        calls.append((command, settings))
        [file] = [part.partition("=")[2] for part in command if part.startswith("--junitxml=")]
        Path(file).write_text(JUNIT)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    gpu_right.measure("cuda:1", ["-k", "clip"], quiet)
    [(command, settings)] = calls
    assert settings["env"]["P2P_TEST_DEVICE"] == "cuda:1"
    assert command[1:6] == ["-m", "pytest", "tests/gpu", "-m", "gpu"]
    assert "clip" in command

    def hang(command: list[str], **settings: Any) -> None:
        raise subprocess.TimeoutExpired(command, settings["timeout"])

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(RuntimeError, match="tests/gpu took longer than 240 s"):
        gpu_right.measure("cuda:0", [], quiet)


@pytest.mark.slow
def test_the_tests_are_run() -> None:
    measured = gpu_right.measure("cpu", ["-k", "pie_pixel"], quiet)
    assert measured.figures["right"].value == 1
    assert measured.details["tests_passed"] == 1


def test_memory_and_waits_are_figures_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """What of them is arithmetic: the worse edit counts, and diffusers' own waits are taken off."""
    answers = {
        "plain": [{"seconds": 1.0, "bytes": 100}],
        "replace": [{"seconds": 1.1, "bytes": 101}],
        "refine": [{"seconds": 1.2, "bytes": 99}],
    }
    measured = Measured()
    gpu_fast._compare(measured, "edit_vs_plain", answers, answers["plain"], Clock(torch.device("cuda")))
    assert {key: ratio.value for key, ratio in measured.figures.items()} == {
        "edit_vs_plain_time": pytest.approx(1.2),
        "edit_vs_plain_memory": pytest.approx(1.01),
    }
    assert gpu_fast.waits_a_step({4: 13, 8: 21}) == 2


@pytest.mark.slow
def test_random_pipelines_stay_finite_over_many_steps() -> None:
    """So do they in float16, whose largest number is 65,504: latents end a thousand times below it."""
    job = {"operator": "refine", "side": 16, "guidance": 7.5, "steps": 20}
    for pipeline in (random_pipeline(SHAPES["tiny"], "cpu"), random_xl_pipeline(XL_SHAPES["tiny"], "cpu")):
        latents = edit.run("engine", pipeline, job)
        assert latents.isfinite().all()
        assert latents.abs().max() < 100


def test_sdxls_edit_starts_from_plain_diffusers_source() -> None:
    pipeline = random_xl_pipeline(XL_SHAPES["tiny"], "cpu")
    job = {"operator": "replace", "side": 16, "guidance": 7.5, "steps": 2}
    plain, engine = (edit.run(name, pipeline, job) for name in ("plain", "engine"))
    torch.testing.assert_close(engine[0], plain[0], rtol=1e-3, atol=1e-3)
    assert (engine[1] - plain[1]).abs().max() > 1e-2


def test_versions_are_told_beside_their_pins(tmp_path: Path) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("# pins\ntorch==1.0.0\nopen-clip-torch==3.3.0\n")
    found = report.versions(constraints)
    assert found["torch"]["pin"] == "1.0.0"
    # PyPI's wheel leaves the +cu130 of `torch.__version__` out of its metadata.
    assert found["torch"]["installed"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert found["open_clip_torch"]["pin"] == "3.3.0"
    told = report.spelled({"torch": {"installed": "2.11.0+cu130", "pin": "2.14.1"}})
    assert told == "torch 2.11.0+cu130 (pin 2.14.1)"
    assert report.spelled({"torch": {"installed": "2.14.1+cu130", "pin": "2.14.1"}}) == "torch 2.14.1+cu130"
