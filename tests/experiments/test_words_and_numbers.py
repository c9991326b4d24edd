"""Words that YAML reads as numbers, and numbers that are infinite or none: text, or one line."""

from pathlib import Path

import pytest

from experiments.config_keys import check_numbers, named_by_text
from experiments.datasets.inline import Inline
from p2p import EditRequest, External, PromptToPrompt, Sampling
from p2p.inversion import EditFriendly, NullText, Proximal
from results.store.records import load_records
from results.tables.auto_tau import Target
from tests.experiments.command import call_task

COUNTS = (
    "dataset=inline",
    "dataset.source_prompt=2 cats on a bench",
    "dataset.target_prompt=2 dogs on a bench",
)


def refused(capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    assert call_task(*overrides) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset.blend_words=[1,1]", "blend_words: [1, 1] is not a list of 2, each a text"),
        ("dataset.blend_words=[true,true]", "[True, True] is not a list of 2, each a text"),
        ("dataset.blend_words=[[cats],[dogs]]", "is not a list of 2, each a text"),
        ("dataset.blend_words=cd", "blend_words: 'cd' is not a list of 2, each a text"),
        ("dataset.weights={3: 2}", "weights: '3' is not in target_prompt"),
        ("dataset.weights={true: 2}", "weights: {True: 2} is not a mapping from a text to"),
        ("dataset.source_prompt=123", 'source_prompt: 123 is not a text; in quotes it is one'),
        ("dataset.target_prompt=true", 'target_prompt: True is not a text; in quotes it is one'),
        ("+grid.methods.p2p.substruct_words=[[1,1]]", "substruct_words: [1, 1] is no pair of texts"),
        ("tau=[{7: 0.5}]", "word '7' is not in prompt"),
        ("cross_replace_steps=[{true: 0.5}]", "{True: 0.5} is not a finite number, or a list"),
        ("sampling.guidance_scale=inf", "sampling.guidance_scale: inf is not a finite number"),
        ("sampling.guidance_rescale=nan", "sampling.guidance_rescale: nan is not a finite number"),
        ("+grid.methods.p2p.blend_weight=[2,-inf]", "grid.methods.p2p.blend_weight.1: -inf is not"),
        ("+metrics.pixel.batch_size=inf", "metrics.pixel.batch_size: inf is not a finite number"),
        ("strength=nan", "strength: nan is not a finite number"),
        ("auto_tau.target.at_most=inf", "auto_tau.target.at_most: inf is not a finite number"),
    ],
)  # fmt: skip
def test_what_is_no_word_and_no_number_is_one_line(
    override: str,
    message: str,
    tiny_without_pair: list[str],
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in refused(capsys, *tiny_without_pair, *COUNTS, override)
    assert not (run_dir / "records").exists()


def test_a_number_that_is_a_word_of_the_prompt_can_be_named(
    tiny_without_pair: list[str], run_dir: Path
) -> None:
    taus = "tau=[{2: 0.5, dogs: 1}]"
    words = ("dataset.weights={2: 1.5}", 'dataset.blend_words=["2","2"]')
    assert call_task(*tiny_without_pair, *COUNTS, *words, taus) == 0
    [edit] = load_records(run_dir).query("method == 'p2p'").to_dict("records")
    assert edit["weights"] == '{"2": 1.5}'
    assert edit["params"] == '{"tau": {"2": 0.5, "dogs": 1}}'
    assert '"source_words": "2"' in edit["blend"]


def test_names_become_texts_and_values_stay() -> None:
    config = {"a": [{2: 3, 2.5: {0: [1]}}], "b": {None: 1, True: 2}}
    assert named_by_text(config) == {"a": [{"2": 3, "2.5": {"0": [1]}}], "b": {None: 1, True: 2}}
    check_numbers(config)


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_numbers_are_finite_in_python_too(number: float) -> None:
    makers = [
        lambda: Sampling(guidance_scale=number),
        lambda: PromptToPrompt(weights=number),
        lambda: PromptToPrompt(blend_weight=number),
        lambda: PromptToPrompt(blend_threshold=number),
        lambda: EditFriendly(guidance_scale=number),
        lambda: NullText(learning_rate=number),
        lambda: NullText(epsilon_growth=number),
        lambda: Proximal(threshold=number),
        lambda: Target("mse@1", at_most=number),
        lambda: External("StableDiffusionImg2ImgPipeline", "nowhere", {}, rows_per_step=number),
    ]
    for make in makers:
        with pytest.raises(ValueError, match=f"{number} is not a"):
            make()


@pytest.mark.parametrize("words", [(1, 1), "ab", ("cat",), (True, "dog")])
def test_positions_are_no_blend_words_in_python_either(words: object) -> None:
    with pytest.raises(ValueError, match="is no pair of texts"):
        EditRequest("a cat", "a dog", blend_words=words)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is no pair of texts"):
        PromptToPrompt(substruct_words=words)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be two texts"):
        Inline(source_prompt="a cat", target_prompt="a dog", blend_words=words).load()  # type: ignore[arg-type]
