"""The table of p2p/README.md that says what runs on which family, asked of the plan."""

import re
from typing import Any

import pytest
import yaml
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from hydra.utils import instantiate

from experiments.config_keys import CONF
from experiments.datasets.pair import Pair
from experiments.planning.model_facts import ModelFacts
from experiments.planning.pair_inputs import read_inputs
from experiments.planning.plan import NamedMethod
from p2p import (
    DeepFloyd,
    Flux,
    Flux2,
    Flux2Klein,
    PixArtAlpha,
    PromptToPrompt,
    QwenImage,
    Sampling,
    StableDiffusion,
    StableDiffusion3,
    ZImage,
)
from p2p.loading.tokenizer_files import clip_tokenizer

STEPS = 50
SAMPLING = Sampling(STEPS)
FAMILIES: dict[str, tuple[Any, Any, bool]] = {  # class, scheduler, whether no state has an unconditional row
    "UNets: Stable Diffusion, SDXL, LDM": (StableDiffusion, DDIMScheduler, False),
    "DeepFloyd IF": (DeepFloyd, DDIMScheduler, False),
    "PixArt": (PixArtAlpha, DDIMScheduler, False),
    "Stable Diffusion 3, 3.5": (StableDiffusion3, FlowMatchEulerDiscreteScheduler, False),
    "Flux": (Flux, FlowMatchEulerDiscreteScheduler, True),
    "Flux.2 dev": (Flux2, FlowMatchEulerDiscreteScheduler, True),
    "Flux.2 Klein": (Flux2Klein, FlowMatchEulerDiscreteScheduler, False),
    "Qwen-Image": (QwenImage, FlowMatchEulerDiscreteScheduler, False),
    "Z-Image": (ZImage, FlowMatchEulerDiscreteScheduler, False),
}


def table() -> dict[tuple[str, str], bool]:
    """Return by method or inversion, and family, whether the README says that it runs."""
    text = (CONF.parent / "p2p" / "README.md").read_text()
    [begin] = [match.start() for match in re.finditer(r"\| \| UNets: ", text)]
    lines = text[begin : text.index("\n\n", begin)].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]
    assert cells[0][1:] == list(FAMILIES)
    return {
        (name, family): bool(cell)
        for row in cells[1:]
        for name in re.findall(r"`(\w+)`", row[0])
        for family, cell in zip(FAMILIES, row[1:], strict=True)
    }


def facts(family: str) -> ModelFacts:
    kind, scheduler, embedded = FAMILIES[family]
    flow = {"use_dynamic_shifting": True} if kind in (Flux, Flux2, Flux2Klein, QwenImage) else {}
    plain = {} if flow or scheduler is FlowMatchEulerDiscreteScheduler else {"clip_sample": False}
    one = scheduler(**flow, **plain)
    calls = kind.set_timesteps(one, STEPS)
    tokenizers = (clip_tokenizer(),)
    blocks = kind.count_blocks({"num_layers": 2, "num_single_layers": 1, "n_layers": 2})
    return ModelFacts("", tokenizers, calls, embedded, 0, one, kind.single_layers, kind.layer_groups, blocks)


def options(group: str) -> dict[str, Any]:
    """Return what the YAML files of a group make, without those of other pipelines and other settings."""
    made = {}
    for file in sorted((CONF / group).glob("*.yaml")):
        settings = yaml.safe_load(file.read_text())
        if settings.get("_target_", "p2p.External") != "p2p.External" and not file.stem.endswith("_pie"):
            made[file.stem] = instantiate(settings, _convert_="all")
    return made


def test_the_table_has_every_method_and_inversion() -> None:
    assert {name for name, _ in table()} == {*options("method"), *options("inversion")}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_method_runs_where_the_table_says(family: str) -> None:
    model, pair = facts(family), Pair("one", "a cat on a bench", "a dog on a bench")
    for name, method in options("method").items():
        if table()[name, family]:
            read_inputs([pair], [NamedMethod(name, method, {})], model, SAMPLING, [None])
        else:
            with pytest.raises(ValueError, match=f"^{name}: |{name}: "):
                read_inputs([pair], [NamedMethod(name, method, {})], model, SAMPLING, [None])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_inversion_is_made_where_the_table_says(family: str) -> None:
    model = facts(family)
    for inversion in options("inversion").values():
        if table()[inversion.name, family]:
            inversion.check(model.scheduler, SAMPLING, model.guidance_embedded)
        else:
            with pytest.raises(ValueError, match="^scheduler: ") as refused:
                inversion.check(model.scheduler, SAMPLING, model.guidance_embedded)
            assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (
            "UNets: Stable Diffusion, SDXL, LDM",
            "p2p: blocks: double-0 is of a transformer, allowed are down, mid",
        ),
        ("PixArt", r"p2p: blocks: this model's layers have no such names, allowed is null \(all\)"),
        (
            "Stable Diffusion 3, 3.5",
            "p2p: blend_layers: up is of a UNet, allowed are this transformer's double",
        ),
        ("Flux", "p2p: blocks: double-7 is no block of this model, allowed are double-0..1 and single-0"),
    ],
)
def test_layers_are_chosen_where_a_family_names_them(family: str, message: str) -> None:
    pair = Pair("one", "a cat on a bench", "a dog on a bench", blend_words=("cat", "dog"))
    wrong = {"Flux": "double-7"}.get(family, "double-0")
    blend = "up" if family.startswith("Stable") else None
    asked = PromptToPrompt(tau=0.2, blocks=wrong, blend_layers=blend)
    with pytest.raises(ValueError, match=message):
        read_inputs([pair], [NamedMethod("p2p", asked, {})], facts(family), SAMPLING, [None])
    right = None if family == "PixArt" else ["up-16"] if family.startswith("UNets") else ["double-0..1"]
    fine = PromptToPrompt(tau=0.2, blocks=right, blend_layers=right)
    read_inputs([pair], [NamedMethod("p2p", fine, {})], facts(family), SAMPLING, [None])
