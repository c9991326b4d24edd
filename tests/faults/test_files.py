"""Each kind of file truncated, emptied, deleted or exchanged: it is told, and the repair mends it."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import experiments.verify
from tests.experiments.command import on_tiny, p2p_bench
from tests.experiments.mixed_run import write_inputs
from tests.faults.conftest import Told
from tests.faults.processes import held

pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.slow]
KINDS = (
    "images/*/0/p2p-*.png",
    "images/*/0/sdedit-*.png",
    "images/*/0/source-*.png",
    "images/*/0/reconstruction-*.png",
    "images/*/mask-*.png",
    "images/*/ideal-*/*.png",
    "records/*.parquet",
    "settings/*.parquet",
    "metrics/pixel@3/*.parquet",
    "metrics/pixel@3/columns.json",
    "metrics/pixel@3/weights.sha256",
    "auto_tau/candidates/*.parquet",
    "auto_tau/chosen.parquet",
    "provenance/*.json",
    "tables/made_from.json",
    "tables/summary.md",
    "tables/main.csv",
    "plots/*.png",
    "strips/*.png",
)
NOT_TOLD = [("exchanged", "images/*/ideal-*/*.png")]  # records have no hash of the ideals' files


def exchange(file: Path, run_dir: Path) -> None:
    """Let a file and another one of the run, of its own kind where there is one, change places."""
    others = [
        one for one in sorted(run_dir.rglob(f"*{file.suffix}")) if one.read_bytes() != file.read_bytes()
    ]
    near = sorted(others, key=lambda one: (one.name[:4] != file.name[:4], one.suffix != file.suffix))
    other = next(iter(near), run_dir / "tables" / "main.md")
    aside = file.read_bytes()
    file.write_bytes(other.read_bytes())
    if not any(other.match(kind) for kind in ("tables/*", "plots/*", "strips/*")):
        other.write_bytes(aside)


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "truncated": lambda file, _: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "emptied": lambda file, _: file.write_bytes(b""),
    "deleted": lambda file, _: file.unlink(),
    "exchanged": exchange,
}


def command(tiny: Path, inputs: Path, run_dir: Path) -> list[str]:
    """Return a run that has each kind of file: masks, ideals, an inversion, a choice of tau, drawings."""
    return [
        *("run", *on_tiny(tiny, run_dir), "plots=true", "dataset=table", f"dataset.path={inputs}"),
        *("inversion=ddim", "tau=auto", "auto_tau.taus=[0,1]", "auto_tau.target.metric=mse@1"),
        *("auto_tau.target.at_most=0.05", "+metrics.ideal._target_=evaluation.ideal.Ideal"),
        "sampling.max_batch=2",
    ]


@pytest.fixture(scope="module")
def whole(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The inputs of that run, and the folder that it leaves."""
    folder = tmp_path_factory.mktemp("files")
    inputs = write_inputs(folder)
    assert p2p_bench(*command(tiny_folder, inputs, folder / "run")) == 0
    return inputs, folder / "run"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_told_and_repaired(
    damage: str,
    whole: tuple[Path, Path],
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    told: Told,
) -> None:
    inputs, complete = whole
    expected, problems = held(complete), []

    def here(words: Sequence[str], folder: str) -> None:
        monkeypatch.chdir(folder)
        p2p_bench(*words)

    monkeypatch.setattr(experiments.verify, "_run", here)  # the same command, without the imports of another
    kinds = [kind for kind in KINDS if (damage, kind) not in NOT_TOLD]
    for number, kind in enumerate(kinds):
        run_dir = shutil.copytree(complete, tmp_path / str(number))
        [file, *_] = sorted(run_dir.glob(kind))
        DAMAGES[damage](file, run_dir)
        capsys.readouterr()
        found = p2p_bench("verify", str(run_dir))
        text = capsys.readouterr().out
        if found != 1:
            problems.append(f"{kind}: not told: {text}")
        mended = p2p_bench("verify", str(run_dir), "--repair")
        if kind.startswith("provenance"):  # with it the command is gone
            assert "which command made this folder is not known" in capsys.readouterr().out
            mended = p2p_bench(*command(tiny_folder, inputs, run_dir))
        if mended:
            problems.append(f"{kind}: not mended: {capsys.readouterr().out}")
            continue
        after = held(run_dir)
        after["pictures"] = {name: after["pictures"].get(name) for name in expected["pictures"]}
        if after != expected:
            problems.append(f"{kind}: other content after the repair")
    assert not problems, "\n".join(problems)
    told(f"a file {damage}, of each kind, then repaired", len(kinds), "told, then equal")
