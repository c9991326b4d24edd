"""Pairs: what is refused and how it is said, file names, filters; the data sets as Hydra builds them."""

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.datasets.inline import Inline
from experiments.datasets.pair import Pair, filter_pairs, has_words, raise_problems, slug, validate_pairs
from experiments.datasets.templates import p2p_templates

CAT = Pair("cat-dog", "a cat on a mat", "a dog on a red mat", edit_type="swap")


def problems(*pairs: Pair) -> str:
    with pytest.raises(ValueError) as error:
        validate_pairs(pairs)
    return str(error.value)


# --- one pair ---------------------------------------------------------------------------------------------


def test_a_pair_with_everything_is_valid(tmp_path: Path) -> None:
    (tmp_path / "cat.png").touch()
    image = tmp_path / "cat.png"
    validate_pairs(
        [replace(CAT, weights={"red mat": -1.5, "dog": 2}, blend_words=("cat", "dog"), image=image)]
    )


def test_what_is_wrong_with_many_pairs_is_told_once() -> None:
    several = [f"pair 'pair-{i}', p2p: a word is missing" for i in range(5)]
    alone = ["the schedule is another", 'pair "it\'s": has no mask']
    with pytest.raises(ValueError, match="the plan has 7 problems") as found:
        raise_problems([*several, *alone], "the plan")
    assert str(found.value).splitlines()[1:] == [
        "  pair 'pair-0', p2p: a word is missing (and so of 4 other pairs)",
        *(f"  {line}" for line in alone),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, "id must not be empty"),
        ({"id": " cat"}, "id = ' cat': no spaces"),
        ({"edit_type": "swap "}, "edit_type = 'swap ': no spaces"),
        ({"source_prompt": ""}, "source_prompt = '': must not be empty"),
        ({"target_prompt": " "}, "target_prompt = ' ': must not be empty"),
        ({"source_prompt": "a  cat"}, "single spaces, as in 'a cat'"),
        ({"source_prompt": "a cat "}, "single spaces, as in 'a cat'"),
        ({"source_prompt": "a\tcat"}, "single spaces, as in 'a cat'"),
        ({"weights": {"cat": 2.0}}, "weights: 'cat' is not in target_prompt 'a dog on a red mat'"),
        ({"weights": {"Dog": 2.0}}, "did you mean 'dog'?"),
        ({"weights": {"rde mat": 2.0}}, "did you mean 'red mat'?"),
        ({"weights": {"do": 2.0}}, "weights: 'do' is not in"),
        ({"weights": {"": 2.0}}, "weights: '' is not in"),
        ({"weights": {"dog": float("nan")}}, "weights['dog'] = nan: must be a finite number"),
        ({"weights": {"dog": float("inf")}}, "must be a finite number"),
        ({"weights": {"dog": "2"}}, "weights['dog'] = '2': must be a finite number"),
        ({"weights": {"dog": True}}, "must be a finite number"),
        ({"blend_words": ("dog", "dog")}, "blend_words: 'dog' is not in source_prompt"),
        ({"blend_words": ("cat", "cat")}, "blend_words: 'cat' is not in target_prompt"),
        ({"blend_words": ("cat",)}, "must be two"),
        ({"id": 5}, "id 5: id = 5: must be a text"),
        ({"id": ["a"]}, "id = ['a']: must be a text"),
        ({"source_prompt": 5}, "source_prompt = 5: must be a text"),
        ({"edit_type": None}, "edit_type = None: must be a text"),
        ({"instruction": True}, "instruction = True: must be a text"),
        ({"id": "a \ud83d"}, "id = 'a \\ud83d': holds half of a character"),
        ({"target_prompt": "a \ud83d"}, "target_prompt = 'a \\ud83d': holds half of a character"),
        ({"edit_type": "\udcff"}, "edit_type = '\\udcff': holds half of a character"),
        ({"weights": {"\ud83d": 2}}, "weights = '\\ud83d': holds half of a character"),
        ({"weights": {2: 2}}, "weights = 2: must be a text"),
        ({"weights": 2}, "weights = 2: must map words to numbers"),
        ({"weights": {"dog": 10**400}}, "must be a finite number"),
        ({"blend_words": (["cat"], ["dog"])}, "blend_words = ['cat']: must be a text"),
        ({"blend_words": "cat dog"}, "blend_words = 'cat dog': must be two"),
        ({"blend_words": 3}, "blend_words = 3: must be two"),
        ({"image": 5}, "image = 5: must be a path"),
        ({"image": Path("x" * 5000)}, "': File name too long"),
        ({"image": Path("nowhere.png")}, "image = 'nowhere.png': there is no such file"),
        ({"mask": Path("nowhere.png")}, "mask = 'nowhere.png': there is no such file"),
        ({"ideal": Path("nowhere.png")}, "ideal = 'nowhere.png': there is no such file"),
    ],
)
def test_what_cannot_be_used_is_named(change: dict[str, Any], message: str) -> None:
    assert message in problems(replace(CAT, **change))


def test_letters_that_look_alike_are_told_apart() -> None:
    pair = replace(CAT, target_prompt="a caf\u00e9", weights={"cafe\u0301": 2})
    hint = "did you mean 'caf\u00e9', which has its accents in another Unicode form?"
    assert hint in problems(pair)
    assert "Unicode" not in problems(replace(CAT, weights={"Dog": 2}))


def test_all_bad_rows_are_reported_at_once() -> None:
    told = problems(CAT, replace(CAT, id="b", source_prompt=""), replace(CAT, weights={"fox": 2, "cow": 1}))
    assert told.splitlines()[0] == "the data set has 4 problems:"
    assert [line.split(",")[0].strip() for line in told.splitlines()[1:]] == [
        "row 2",
        "row 3",
        "row 3",
        "row 3",
    ]
    assert "id 'cat-dog': must be unique, pair 1 of 3 has it too" in told


@pytest.mark.parametrize(
    ("prompt", "words", "there"),
    [
        ("a cat, a dog", "cat", False),  # punctuation belongs to the word
        ("a cat, a dog", "cat,", True),
        ("a Cat", "cat", False),
        ("catalog cat", "cat", True),
        ("catalog", "cat", False),
        ("pea soup with croutons", "soup with", True),
        ("pea soup with croutons", "pea with", False),
        ("a cat", "", False),
    ],
)
def test_words_are_found_as_the_reference_finds_them(prompt: str, words: str, there: bool) -> None:
    assert has_words(prompt, words) is there


def test_pairs_travel_to_other_processes() -> None:
    pair = replace(CAT, weights={"dog": 2.0}, image=Path("cat.png"))
    assert pickle.loads(pickle.dumps(pair)) == pair


# --- names of files ---------------------------------------------------------------------------------------

HARD_IDS = [
    "cat", "Cat", "CAT", "cat ", "../../etc/passwd", "/abs", "a/b", "a\\b", "a-b", "a b", "..", ".", "",
    "CON", "猫", "犬", "x" * 39, "x" * 40, "x" * 41, "x" * 400, "café", "cafe", "cafe\u0301", "a\nb", "\0",
]  # fmt: skip


@pytest.mark.parametrize("pair_id", HARD_IDS)
def test_a_slug_is_one_plain_file_name(pair_id: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,39}-[0-9a-f]{10}", slug(pair_id))


def test_distinct_ids_keep_distinct_slugs_even_where_case_is_ignored() -> None:
    assert len({slug(pair_id).lower() for pair_id in HARD_IDS}) == len(HARD_IDS)


def test_slugs_stay_what_they_are() -> None:
    # Stored runs are found by this name.
    assert slug("t3-0042") == "t3-0042-0a56490cf4"


# --- filters ----------------------------------------------------------------------------------------------

FOUR = tuple(
    Pair(str(n), "a cat", "a dog", edit_type=kind) for n, kind in enumerate(["swap", "add", "swap", "add"])
)


@pytest.mark.parametrize(
    ("choice", "kept"),
    [
        ({}, "0123"),
        ({"limit": 2}, "01"),
        ({"limit": 9}, "0123"),
        ({"ids": ["3", "1"]}, "13"),
        ({"ids": [3, 1]}, "13"),  # as Hydra reads dataset.ids=[3,1]
        ({"ids": "2"}, "2"),
        ({"ids": 2}, "2"),
        ({"edit_types": ["add"]}, "13"),
        ({"edit_types": "swap", "limit": 1}, "0"),
        ({"edit_types": ["swap", "add"], "ids": ["0", "3"]}, "03"),
    ],
)
def test_filters_keep_order_and_the_first_n(choice: dict[str, Any], kept: str) -> None:
    assert "".join(pair.id for pair in filter_pairs(FOUR, **choice)) == kept


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"ids": ["1", "7"]}, r"ids = \['7'\]: there are '0', '1', '2', '3'"),
        ({"ids": []}, r"ids = \[\]: there are"),
        ({"edit_types": ["Swap"]}, r"edit_types = \['Swap'\]: there are 'swap', 'add'"),
        ({"ids": ["0"], "edit_types": ["add"]}, "no pair is left"),
        ({"limit": 0}, "limit = 0: must be a whole number from 1"),
        ({"limit": True}, "limit = True"),
        ({"limit": 1.5}, "limit = 1.5"),
    ],
)
def test_a_filter_that_fits_nothing_says_what_there_is(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        filter_pairs(FOUR, **choice)


def test_a_long_list_of_ids_is_cut_and_leads_with_the_near_ones() -> None:
    with pytest.raises(ValueError, match=r"there are 't3-0042', .*\(1795 in all\)"):
        filter_pairs(p2p_templates(None), ids=["T3-0042"])


# --- one pair from the command line -----------------------------------------------------------------------


def test_inline_gives_its_pair() -> None:
    given = Inline(
        source_prompt="a cat", target_prompt="a dog", weights={"dog": 2}, blend_words=["cat", "dog"]
    )
    (pair,) = given.load()
    assert pair == Pair(pair.id, "a cat", "a dog", weights={"dog": 2}, blend_words=("cat", "dog"))


def test_inline_takes_a_real_picture_and_its_mask(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.png" for name in ("image", "mask")}
    for file in files.values():
        file.touch()
    (pair,) = Inline(
        source_prompt="a cat", target_prompt="a dog", **{n: str(f) for n, f in files.items()}
    ).load()
    assert (pair.image, pair.mask) == tuple(files.values())
    files["mask"].unlink()
    with pytest.raises(ValueError, match=r"mask = .*mask.png': there is no such file"):
        Inline(source_prompt="a cat", target_prompt="a dog", mask=files["mask"]).load()


def test_inline_ids_follow_the_content(tmp_path: Path) -> None:
    picture = tmp_path / "cat.png"
    picture.touch()

    def pair_id(**fields: Any) -> str:
        return Inline(**{"source_prompt": "a cat", "target_prompt": "a dog"} | fields).load()[0].id

    different = [
        {},
        {"target_prompt": "a cow"},
        {"weights": {"dog": 2}},
        {"blend_words": ["cat", "dog"]},
        {"image": picture},
        {"image": picture, "mask": picture},
        {"id": "mine"},
    ]
    assert len({pair_id(**fields) for fields in different}) == len(different)
    assert pair_id() == pair_id(edit_type="swap")


def test_inline_is_checked_too() -> None:
    with pytest.raises(ValueError, match="did you mean 'dog'"):
        Inline(source_prompt="a cat", target_prompt="a dog", weights={"dogs": 2}).load()


# --- their YAML files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["p2p_templates", "table", "inline"])
def test_yaml_offers_every_filter_and_says_what_it_is(name: str) -> None:
    text = (Path(__file__).parents[2] / f"conf/dataset/{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert {"limit", "ids", "edit_types"} <= yaml.safe_load(text).keys()


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        (["dataset=p2p_templates"], 140),
        (["dataset=p2p_templates", "dataset.per_template=null"], 1795),
        (["dataset=p2p_templates", "dataset.limit=5", "dataset.edit_types=[swap]"], 5),
        (["dataset=p2p_templates", "dataset.edit_types=add", "dataset.per_template=1"], 4),
        (["dataset=p2p_templates", "dataset.ids=t1-0005", "dataset.per_template=null"], 1),
        (["dataset=table", "dataset.path=${oc.env:TABLE}", "dataset.ids=[2,3]"], 2),
        (
            [
                *("dataset=inline", "dataset.source_prompt='a cat'", "dataset.target_prompt='a big dog'"),
                *("dataset.weights={big dog: 2}", "dataset.blend_words=[cat,dog]"),
            ],
            1,
        ),
    ],
)
def test_hydra_builds_what_the_command_line_asks_for(
    overrides: list[str], count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    rows = [{"id": n, "source_prompt": "a cat", "target_prompt": "a dog"} for n in range(5)]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    monkeypatch.setenv("TABLE", str(tmp_path / "t.jsonl"))
    with initialize_config_dir(str(Path(__file__).parents[2] / "conf"), version_base="1.3"):
        config = compose(overrides=["+" + overrides[0], *overrides[1:]])
        dataset = instantiate(config.dataset, _convert_="all")
    assert len(dataset.load()) == count
