"""Every recipe of experiments/EXTENDING.md, followed to the letter on a tiny random pipeline.

A test writes a section's files where the section says, runs its commands, and looks at what came out. Only
where weights come from, and how large and long the run is, are added to the commands.
"""

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image

import results.plots.run_plots
import results.summary
from experiments.running.png_files import read_png
from p2p import ModelSpec
from p2p.families.model import Model
from results.store.records import load
from tests.experiments.command import p2p_bench
from tests.tiny_pipelines import NO_CHECKER

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "experiments" / "EXTENDING.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+)\n((?s:.*?))(?=^## |\Z)", PAGE, re.MULTILINE))

pytestmark = pytest.mark.xdist_group("extending")


def files_of(section: str) -> dict[str, str]:
    """Return a section's files: each block of code that follows a line with its path."""
    return dict(re.findall(r"^`([^`]+)`:\n\n```\w+\n(.*?)```", SECTIONS[section], re.MULTILINE | re.DOTALL))


def commands_of(section: str) -> list[list[str]]:
    """Return the arguments of a section's commands."""
    return [shlex.split(line)[1:] for line in re.findall(r"^ {4}(p2p-bench .*)$", SECTIONS[section], re.M)]


Follow = Callable[..., Path]


@pytest.fixture
def on_tiny(tiny_folder: Path) -> list[str]:
    """Overrides that put the tiny pipeline in the place of the embedded model."""
    return ["model=folder", f"model.path={tiny_folder}", "sampling.num_inference_steps=4"]


@pytest.fixture
def follow(tmp_path: Path, on_tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Follow]:
    """Return a function that carries out a section in an empty folder, and gives the run folder.

    It adds to the section's commands which model they run on, and what else is asked for.
    """

    def carry_out(section: str, *added: str, model: list[str] = on_tiny) -> Path:
        for name, text in {**files_of("Pair"), **files_of(section)}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        assert commands_of(section)
        for command in commands_of(section):
            small = [*model, "model.self_max_side=16", "device=cpu", "plots=false", "report=false"]
            assert p2p_bench(*command, *small, *added) == 0, command
        return tmp_path / "runs" / "default"

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield carry_out
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "my_package":
            del sys.modules[name]


def edits_of(run_dir: Path) -> pd.DataFrame:
    """Return the run's records without its sources, all of which were made."""
    records = load(run_dir)
    assert (records["status"] == "ok").all()
    return records[records["method"] != "source"]


def pictures(run_dir: Path, rows: pd.DataFrame) -> list[torch.Tensor]:
    return [torch.as_tensor(read_png(run_dir / path)).float() for path in rows["image"]]


def test_every_kind_of_the_table_has_a_recipe_and_what_the_table_names_is_there() -> None:
    rows = [
        [cell.strip() for cell in row.split("|")[1:-1]] for row in re.findall(r"^\|.*\|$", PAGE, re.M)[2:]
    ]
    assert [what.lower() for what, *_ in rows] == [name.lower() for name in SECTIONS]
    for what, contract, copied, yaml, test in rows:
        for cell in (contract, copied, test):
            for path in re.findall(r"`([\w/.]+/[\w.]+)`", cell):
                assert (ROOT / path).is_file(), f"{what}: {path}"
        assert yaml == "none" or (ROOT / "conf" / yaml.strip("`/")).is_dir()
        name, *file = re.findall(r"`([^`]+)`", contract) or [""]
        assert not file or re.search(rf"^(class )?{name}\b", (ROOT / file[0]).read_text(), re.MULTILINE)


def test_the_lines_of_a_family_are_the_abstract_ones() -> None:
    told = SECTIONS["Family of models"].split("`UNetModel`")[0]
    assert set(re.findall(r"`(\w+)`", told)) == set(Model.__abstractmethods__)


def test_a_pair(follow: Follow) -> None:
    edits = edits_of(follow("Pair")).set_index("pair_id")
    assert edits["target_prompt"].to_dict() == {"dog": "a dog on a bench", "red": "a cat on a red bench"}
    assert (edits.loc["red", "weights"], edits.loc["dog", "weights"]) == ('{"red": 2}', "{}")


def test_a_grid(follow: Follow, capsys: pytest.CaptureFixture[str]) -> None:
    edits = edits_of(follow("Grid"))
    assert set(edits["seed"]) == {0, 1}
    assert set(edits["method"]) == {"p2p", "fixed_seed"}
    p2p = edits[edits["method"] == "p2p"]
    assert set(zip(p2p["tau"], p2p["self_end"], strict=True)) == {(0, 0), (0, 1), (0.5, 0), (0.5, 1)}
    assert "evaluations" in capsys.readouterr().out


def test_an_operator(follow: Follow) -> None:
    run_dir = follow("Operator")
    edits = edits_of(run_dir).query("pair_id == 'dog'").set_index("operator")
    assert sorted(edits.index) == ["my_package.operators.halved", "refine"]
    refined, halved = pictures(run_dir, edits.sort_index(ascending=False))
    assert not torch.equal(refined, halved)


def test_a_method(follow: Follow) -> None:
    run_dir = follow("Method")
    edits = edits_of(run_dir).query("method == 'late_self_attention' and pair_id == 'dog'")
    assert set(edits["params"]) == {'{"from_step": 1}', '{"from_step": 3}'}
    early, late = pictures(run_dir, edits)
    assert not torch.equal(early, late)
    table = pd.read_csv(run_dir / "tables" / "main.csv")
    assert table.loc[table["method"] == "late_self_attention", "setting"].nunique() == 2


@pytest.mark.parametrize("name", ["strength", "tau"])
def test_a_methods_parameter_makes_rows_whatever_it_is_called(
    name: str, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SECTIONS, "Method", SECTIONS["Method"].replace("from_step", name))
    table = pd.read_csv(follow("Method") / "tables" / "main.csv")
    rows = table[table["method"].eq("late_self_attention") & table["edit_type"].eq("all")]
    assert set(rows["setting"]) == {f"{name}=1", f"{name}=3"}
    assert (rows["n"] == 2).all()


def test_a_method_that_records_a_name_of_its_own_is_refused(
    follow: Follow, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = SECTIONS["Method"].replace("prompt, steps)", 'prompt, steps, record={"from_step": 1})')
    monkeypatch.setitem(SECTIONS, "Method", recorded)
    with pytest.raises(AssertionError):
        follow("Method")
    assert "late_self_attention: records ['from_step'], allowed are operator, tau" in capsys.readouterr().err


def test_a_pipeline_of_diffusers(follow: Follow, tiny_folder: Path) -> None:
    run_dir = follow("Pipeline of diffusers", f"+grid.methods.image_to_image.path={tiny_folder}")
    edits = edits_of(run_dir).query("method == 'image_to_image' and pair_id == 'dog'")
    assert len(edits) == 2
    half, whole = pictures(run_dir, edits)
    assert not torch.equal(half, whole)


def test_a_metric(follow: Follow) -> None:
    run_dir = follow("Metric")
    edits = edits_of(run_dir)
    sources = pictures(run_dir, edits.assign(image=edits["source_image"]))
    pairs = zip(pictures(run_dir, edits), sources, strict=True)
    expected = [(image.mean() - source.mean()).item() for image, source in pairs]
    assert edits["brightness@1"].tolist() == pytest.approx(expected, abs=1e-6)
    assert max(map(abs, expected)) > 1e-4
    assert "brightness@1" in set(pd.read_csv(run_dir / "tables" / "main.csv")["metric"])


def test_a_data_set(follow: Follow) -> None:
    edits = edits_of(follow("Data set"))
    assert set(edits["dataset"]) == {"colours"}
    assert sorted(edits["target_prompt"]) == ["a blue car", "a red car"]


def test_an_inversion(follow: Follow, tmp_path: Path) -> None:
    Image.effect_noise((32, 32), 60).convert("RGB").save(tmp_path / "cat.png")
    run_dir = follow("Inversion")
    records = load(run_dir)
    assert set(records.loc[records["method"] == "p2p", "inversion"]) == {"empty_prompt"}
    assert "reconstruction" in set(records["method"])


def test_a_family(follow: Follow, tiny_folder: Path, tmp_path: Path) -> None:
    lcm = save_lcm(tiny_folder, tmp_path / "lcm")
    run_dir = follow("Family of models", model=[f"model.path={lcm}"])
    records = load(run_dir)
    assert set(records["model"]) == {"my_lcm"}
    family = "my_package.families.LatentConsistency"
    own = ModelSpec("lcm", str(lcm), 16, 16, pipeline=family, device="cpu")
    assert own.identity() != ModelSpec("lcm", str(lcm), 16, 16, device="cpu").identity()
    pipeline = own.load().pipeline
    generator = torch.Generator().manual_seed(0)
    asked = {"num_inference_steps": 4, "guidance_scale": 7.5, "output_type": "pt", "generator": generator}
    plain = pipeline("a cat on a bench", **asked).images[0]
    source = records[(records["method"] == "source") & (records["pair_id"] == "dog")]
    [made] = pictures(run_dir, source)
    assert (made - plain).abs().max() < 1.5 / 255  # the file's 8 bits, and a rounding of them


def save_lcm(tiny: Path, folder: Path) -> Path:
    """Save a tiny pipeline whose UNet is told the guidance scale, as a distilled one's is."""
    parts = StableDiffusionPipeline.from_pretrained(tiny, **NO_CHECKER).components
    torch.manual_seed(0)
    config = {**parts["unet"].config, "time_cond_proj_dim": 32}
    parts["unet"] = UNet2DConditionModel.from_config(config)
    parts["scheduler"] = LCMScheduler.from_config(parts["scheduler"].config)
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)
    return folder


def test_a_plot(follow: Follow, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path(results.plots.run_plots.__file__).read_text()
    [code] = re.findall(r"```python\n(.*?)```", SECTIONS["Plot"], re.DOTALL)
    edited, replaced = re.subn(r"^PLOTS: .*\n", lambda _: code, text, flags=re.MULTILINE)
    assert replaced == 1
    module = ModuleType("edited_run_plots")
    exec(compile(edited, "run_plots.py", "exec"), module.__dict__)
    assert module.PLOTS[:-1] == tuple(
        getattr(module, plot.__name__) for plot in results.plots.run_plots.PLOTS
    )
    monkeypatch.setattr(results.summary, "run_plots", module)
    run_dir = follow("Plot", "plots=true")
    assert {"counts.png", "counts.pdf"} <= {path.name for path in (run_dir / "plots").iterdir()}
