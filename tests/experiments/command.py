"""`p2p-bench` called in this process, and overrides for a run of one pair on the tiny pipeline."""

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

import experiments.run
import experiments.running.generate

Cli = Callable[..., int]
PAIR = ("dataset=inline", "dataset.source_prompt=a cat on a bench", "dataset.target_prompt=a dog on a bench")


def p2p_bench(*arguments: str) -> int:
    """Call the command line; return its exit code.

    Hydra composes all once more beforehand, to look for `hydra.mode`: a tenth of a second, saved where no
    argument names it, as no file in `conf` does.
    """
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["p2p-bench", *arguments])
        if not any("hydra" in one for one in arguments):
            patch.setattr(Hydra, "get_mode", lambda *_, **__: None)
        try:
            experiments.run.main()
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 1
    return 0


def call_task(*overrides: str) -> int:
    """Give the task of `p2p-bench run` its configuration, without what Hydra does around it: exit code."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(experiments.run.CONF), version_base="1.3"):
        config = compose("config", overrides=list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    OmegaConf.set_struct(config, False)
    try:
        experiments.run._run(OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    return 0


def on_tiny(pipeline: Path, run_dir: Path) -> list[str]:
    """Return overrides for a run of a pair that is still to be named; it draws nothing, and has no report."""
    return [
        *("model=folder", f"model.path={pipeline}", "model.self_max_side=16", "device=cpu"),
        *("sampling.num_inference_steps=4", "grid=trade_off", "grid.seeds=[0]", "metrics=pixel"),
        *("grid.methods.p2p.tau=[0,1]", "grid.methods.sdedit.strength=[0.5]"),
        *("plots=false", "report=false", f"run_dir={run_dir}"),
    ]


def forbid_generating(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run fail that has anything left to make."""

    def fail(*_: object) -> None:
        raise AssertionError("nothing was left to generate")

    monkeypatch.setattr(experiments.running.generate, "run_plan", fail)


def write_pairs(path: Path, edit_types: list[str]) -> None:
    """Write a table of a swap and an addition with these labels."""
    prompts = [("a cat on a bench", "a dog on a bench"), ("a cat on a bench", "a cat on a red bench")]
    rows = [(i, *texts, kind) for i, (texts, kind) in enumerate(zip(prompts, edit_types, strict=True))]
    columns = ["id", "source_prompt", "target_prompt", "edit_type"]
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
