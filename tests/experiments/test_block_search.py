"""Blocks as an axis of a run, end to end: single blocks, their ranks, and a greedy search in one folder."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from experiments.config_keys import CONF
from p2p.attention.places import Places
from results.store.records import load
from tests.experiments.command import PAIR, Cli
from tests.p2p.families.yamls import from_yaml

pytestmark = pytest.mark.xdist_group("block_search")

TINY = ("model=folder", "model.self_max_side=16", "model.blend_side=16", "device=cpu", "metrics=pixel")
AXIS = "[null,down-16,mid,up,no-down-16,no-mid,no-up]"


def test_a_run_over_blocks_is_ranked_and_searched_on(
    cli: Cli, tiny_folder: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", *TINY, f"model.path={tiny_folder}", "sampling.num_inference_steps=4", *PAIR]
    command += ["grid=block_search", "report=false", f"run_dir={run_dir}"]
    assert cli(*command, f"grid.methods.p2p.blocks={AXIS}") == 0
    records = load(run_dir)
    assert records["method"].value_counts().to_dict() == {"p2p": 7, "source": 1, "fixed_seed": 1}
    edits = records[records["method"].eq("p2p")]
    assert edits["image_sha256"].nunique() == 7
    assert (run_dir / "plots" / "by_block.png").stat().st_size > 5000
    settings = set(pd.read_csv(run_dir / "tables" / "main.csv")["setting"].dropna())
    assert {"τ 0.2, blocks=no-mid", "τ 0.2, blocks=null"} <= settings
    capsys.readouterr()
    assert cli("blocks", str(run_dir), "--metric", "psnr@1") == 0
    told = capsys.readouterr().out
    assert "psnr@1, higher is better, means over 1 pairs" in told
    assert "| all |" in told
    best = re.search(r"^1\. (\S+): ", told, re.MULTILINE)
    assert best
    [override] = re.findall(r"^'(grid.methods.p2p.blocks=\S+)'$", told, re.MULTILINE)
    assert override.count(best[1]) == 2
    assert cli(*command, override) == 0  # goes on in the folder
    assert len(load(run_dir)) == 9 + 2
    capsys.readouterr()
    assert cli("blocks", str(run_dir), "--metric", "psnr", "--most", "2") == 0
    assert "The search is over" in capsys.readouterr().out
    assert cli("blocks", str(run_dir), "--metric", "nothing@1") == 2
    assert "error: --metric: the run has no nothing@1, but " in capsys.readouterr().err
    assert cli("blocks", str(run_dir), "--metric", "psnr@1", "--most", "0") == 2


def test_a_run_over_heads(
    cli: Cli, tiny_folder: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*TINY, f"model.path={tiny_folder}", "sampling.num_inference_steps=4", *PAIR, "grid=single"]
    command += [f"run_dir={run_dir}", "plots=false", "report=false"]
    heads = "+grid.methods.p2p.heads=[null,[0],[0,1],0..1]"
    assert cli("plan", *command, heads) == 0
    assert "1 settings give the same image as others and are made once" in capsys.readouterr().out
    assert cli("run", *command, heads) == 0
    edits = load(run_dir).query("method == 'p2p'")
    assert set(edits["status"]) == {"ok"}
    assert {str(json.loads(one)["heads"]) for one in edits["params"]} == {"None", "[0]", "[0, 1]"}
    assert edits["key"].nunique() == 3  # a key does not know that [0, 1] are all
    assert cli("plan", *command, "+grid.methods.p2p.heads=[null,3..1]") == 2
    assert "heads: '3..1' runs backwards, allowed is 1..3" in capsys.readouterr().err


def test_a_plan_refuses_layers_of_another_network(
    cli: Cli, tiny_folder: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["plan", *TINY, f"model.path={tiny_folder}", *PAIR, "grid=single", f"run_dir={run_dir}"]
    assert cli(*command, "+grid.methods.p2p.blocks=[double-0]") == 2
    assert (
        "p2p: blocks: double-0 is of a transformer, allowed are down, mid and up of"
        in capsys.readouterr().err
    )


def test_the_grid_names_every_layer_group_of_the_embedded_model() -> None:
    [axis] = [yaml.safe_load((CONF / "grid/block_search.yaml").read_text())["methods"]["p2p"]["blocks"]]
    unet = from_yaml("embedded").load()
    single = [name for name in axis if name and not name.startswith("no-")]
    found = [unet.layers_at(places) for name in single if (places := Places.named("blocks", name))]
    assert sum(map(len, found)) == len(unet.denoiser.attn_processors) == len(frozenset().union(*found))
    assert axis == [None, *single, *(f"no-{name}" for name in single)]


@pytest.mark.parametrize(
    ("name", "counts"), [("sd3", {"double": 24}), ("flux", {"double": 19, "single": 38})]
)
def test_the_grids_of_transformers_name_every_block(name: str, counts: dict[str, int]) -> None:
    methods = yaml.safe_load((CONF / f"grid/block_search_{name}.yaml").read_text())["methods"]
    single = [f"{stream}-{number}" for stream, count in counts.items() for number in range(count)]
    assert methods["projections"]["blocks"] == [None, *single, *(f"no-{one}" for one in single)]
