"""What a plan reads of a pipeline's files by itself is what diffusers and transformers read of them."""

import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.alignment import ExpandingTokenizer
from p2p.loading.model_spec import ModelSpec
from p2p.loading.plain_ddim import PlainDDIM
from p2p.loading.plain_tokenizer import PlainTokenizer
from p2p.loading.tokenizer_files import read_tokenizer
from p2p.schedulers import new_scheduler, set_timesteps

ROOT = Path(__file__).parents[2]
PIPELINE = ROOT / "experiments" / "embedded" / "weights" / "pipeline"
CONFIG = json.loads((PIPELINE / "scheduler" / "scheduler_config.json").read_text())
EMBEDDED = ModelSpec("embedded", str(PIPELINE), 16, 16, device="cpu")
PROMPTS = (
    "",
    "a red cat",
    "A cat, the dog's  hat",
    "naïve ½ 日本 é🐱",
    "<|endoftext|> a <|startoftext|>",
    "x" * 99,
)


def told(name: object = "DDIMScheduler", **settings: Any) -> PlainDDIM | None:
    return PlainDDIM.of(name, {**CONFIG, **settings})


@pytest.fixture
def only_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlainDDIM, "of", classmethod(lambda *_: None))


@pytest.mark.parametrize(
    "given_settings",
    [{}, {"prediction_type": "v_prediction"}, {"set_alpha_to_one": True, "beta_end": 0.02}],
)
def test_identity_and_calls_are_those_of_diffusers_own_scheduler(
    given_settings: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    spec = replace(EMBEDDED, scheduler_config=given_settings)
    assert spec.plain_scheduler() is not None
    plain = spec.identity(), spec.unet_calls(20)
    request.getfixturevalue("only_diffusers")
    assert (spec.identity(), spec.unet_calls(20)) == plain


@pytest.mark.parametrize("trained", [1, 7, 1000])
@pytest.mark.parametrize(
    ("prediction", "offset"),
    [
        ("epsilon", 1),
        ("v_prediction", 0),
        pytest.param("epsilon", 0, marks=pytest.mark.slow),
        pytest.param("v_prediction", 1, marks=pytest.mark.slow),
    ],
)
def test_calls_are_those_that_diffusers_makes(trained: int, prediction: str, offset: int) -> None:
    settings = {"num_train_timesteps": trained, "prediction_type": prediction, "steps_offset": offset}
    for betas in ({"beta_start": 1e-6, "beta_end": 1e-6}, {"beta_start": 0.02, "beta_end": 0.02}):
        plain = told(**settings, **betas)
        assert plain is not None
        config = {**CONFIG, **settings, **betas}
        made = new_scheduler("DDIMScheduler", config)
        own = {name: value for name, value in made.config.items() if not name.startswith("_")}
        assert plain.config == own
        for steps in sorted({1, 2, 3, 7, 50, trained - 1, trained, trained + 1} - {0}):
            try:
                calls = set_timesteps(made, steps)
            except ValueError:
                calls = None
            assert plain.calls(steps) == calls, steps


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("timestep_spacing", "trailing"),
        ("rescale_betas_zero_snr", True),
        ("trained_betas", [0.1]),
        ("clip_sample", True),
        ("beta_schedule", "linear"),
        ("prediction_type", "sample"),
        ("steps_offset", 2),
        ("steps_offset", True),
        ("beta_end", 0.5),
        ("beta_start", 0.0),
        ("beta_start", "0.1"),
        ("num_train_timesteps", 1001),
        ("_diffusers_version", "0.1.0"),
        ("_use_default_values", ["beta_end"]),
        ("beta_strat", 0.1),
        ("", 0.1),
    ],
)
def test_any_other_config_is_left_to_diffusers(setting: str, value: Any) -> None:
    assert told() is not None
    assert told(**{setting: value}) is None


def test_another_class_and_a_config_without_a_setting_are_left_to_diffusers() -> None:
    assert told("DDPMScheduler") is None
    for setting in CONFIG:
        assert PlainDDIM.of("DDIMScheduler", {k: v for k, v in CONFIG.items() if k != setting}) is None


def test_the_embedded_pipeline_is_written_by_the_version_that_is_installed() -> None:
    if CONFIG["_diffusers_version"] != version("diffusers"):
        pytest.skip(f"diffusers {version('diffusers')}: a plan asks diffusers itself, and takes longer")
    assert told() is not None


@pytest.fixture(scope="module")
def both() -> tuple[PlainTokenizer, Any]:
    plain = PlainTokenizer.of(PIPELINE / "tokenizer")
    assert plain is not None
    return plain, read_tokenizer(PIPELINE / "tokenizer")


def check_alike(prompt: str, plain: PlainTokenizer, own: Any) -> None:
    encoded = own(prompt, return_special_tokens_mask=True, return_offsets_mapping=True, verbose=False)
    mine = plain(prompt)
    assert {name: list(values) for name, values in mine.items()} == {name: encoded[name] for name in mine}
    assert plain.tokenize(prompt) == own.tokenize(prompt)
    assert plain.decode(mine["input_ids"]) == own.decode(mine["input_ids"])
    assert ExpandingTokenizer(plain).expanded(prompt) == ExpandingTokenizer(own).expanded(prompt)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts_fall_into_the_tokens_that_transformers_finds(prompt: str, both: tuple[Any, Any]) -> None:
    check_alike(prompt, *both)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_falls_into_the_tokens_that_transformers_finds(
    both: tuple[PlainTokenizer, Any], prompt: str
) -> None:
    check_alike(prompt, *both)


def test_the_tokenizer_says_of_itself_what_transformers_says(both: tuple[PlainTokenizer, Any]) -> None:
    plain, own = both
    assert plain.added_tokens_encoder == own.added_tokens_encoder
    assert (len(plain), plain.model_max_length, plain.is_fast) == (
        len(own),
        own.model_max_length,
        own.is_fast,
    )


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("tokenizer_config.json", '"model_max_length": 36', '"model_max_length": true'),
        ("tokenizer_config.json", '"CLIPTokenizer"', '"T5Tokenizer"'),
        ("tokenizer_config.json", "{", '{"split_special_tokens": true,'),
        ("tokenizer_config.json", "{", "["),
        ("tokenizer.json", '"Lowercase"', '"Strip"'),
        ("tokenizer.json", '"dropout": null', '"dropout": 0.5'),
        ("tokenizer.json", '"normalized": false', '"normalized": true'),
        ("tokenizer.json", '"truncation": null', '"truncation": {"max_length": 5}'),
        ("tokenizer.json", '"trim_offsets": false', '"trim_offsets": true'),
        ("tokenizer.json", '"id": 705', '"id": 704'),
        ("tokenizer.json", '"strategy": {', '"strategy": {"x": 1,'),
    ],
)
def test_a_tokenizer_s_files_that_say_more_are_left_to_transformers(
    file: str, old: str, new: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(PIPELINE / "tokenizer", tmp_path / "tokenizer")
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))
    assert PlainTokenizer.of(folder) is None


def test_a_folder_with_another_file_or_without_one_is_left_to_transformers(tmp_path: Path) -> None:
    folder = shutil.copytree(PIPELINE / "tokenizer", tmp_path / "tokenizer")
    (folder / "added_tokens.json").write_text("{}")
    assert PlainTokenizer.of(folder) is None
    assert PlainTokenizer.of(tmp_path / "none") is None


def test_a_tokenizer_that_was_asked_is_still_sent_to_other_processes() -> None:
    plain = PlainTokenizer.of(PIPELINE / "tokenizer")
    assert plain is not None
    asked = plain("a cat on the beach"), plain.tokenize("a cat"), plain.added_tokens_encoder
    again = pickle.loads(pickle.dumps(plain))
    assert (again("a cat on the beach"), again.tokenize("a cat"), again.added_tokens_encoder) == asked


def test_a_plan_imports_neither_diffusers_nor_transformers() -> None:
    if told() is None:
        pytest.skip("only a pipeline that the installed version of diffusers wrote is read without it")
    found = "{'diffusers', 'transformers'} & {*sys.modules}"
    code = f"import sys; from experiments.run import main; main(); print({found})"
    command = [sys.executable, "-c", code, "plan", "experiment=quickstart", "dataset.limit=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"
