"""A user's own tables: both formats load alike, and everything wrong is told at once with its line."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.datasets.pair import Pair
from experiments.datasets.tabular import Table

ROWS = [
    {
        "id": "one",
        "source_prompt": "a cat",
        "target_prompt": "a dog, red",
        "weights": {"dog,": 2, "red": -0.5},
    },
    {"id": "zwei", "source_prompt": "ein Käfer", "target_prompt": "ein Bär", "blend_words": ["Käfer", "Bär"]},
    {
        "id": "3",
        "source_prompt": "a cat",
        "target_prompt": "a cat",
        "edit_type": "style",
        "image": "pics/cat.png",
    },
]


def table(folder: Path, name: str, text: str, **fields: Any) -> Table:
    (folder / name).write_text(text, encoding="utf-8")
    return Table(name="mine", path=folder / name, **fields)


def as_csv(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[row.get(c, "") for c in columns] for row in rows]
    quoted = [[c if isinstance(c, str) else json.dumps(c, ensure_ascii=False) for c in row] for row in cells]
    lines = [",".join('"' + c.replace('"', '""') + '"' for c in row) for row in [columns, *quoted]]
    return "\n".join(lines) + "\n"


def as_jsonl(rows: list[dict[str, Any]]) -> str:
    return "\n".join(json.dumps(row) for row in rows)


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize(("name", "write"), [("t.csv", as_csv), ("t.jsonl", as_jsonl), ("T.CSV", as_csv)])
def test_both_formats_give_the_same_pairs(tmp_path: Path, name: str, write: Any, start: str) -> None:
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics/cat.png").touch()
    assert table(tmp_path, name, start + write(ROWS)).load() == (
        Pair("one", "a cat", "a dog, red", weights={"dog,": 2, "red": -0.5}),
        Pair("zwei", "ein Käfer", "ein Bär", blend_words=("Käfer", "Bär")),
        Pair("3", "a cat", "a cat", edit_type="style", image=tmp_path / "pics/cat.png"),
    )


def test_filters_reach_a_table(tmp_path: Path) -> None:
    loaded = table(tmp_path, "t.jsonl", as_jsonl(ROWS[:2]), ids=["zwei"]).load()
    assert [pair.id for pair in loaded] == ["zwei"]


def test_jsonl_takes_null_and_numbers_as_ids(tmp_path: Path) -> None:
    row = '{"id": 7, "source_prompt": "a cat", "target_prompt": "a dog", "weights": null, "mask": null}'
    assert table(tmp_path, "t.jsonl", row + "\n\n").load() == (Pair("7", "a cat", "a dog"),)


def test_csv_problems_come_together_with_their_lines(tmp_path: Path) -> None:
    text = (
        "id, source_prompt, target_prompt, weights, blend_words, image\n"
        "ok, a cat, a dog\n"
        '"multi", "a\ncat", a dog\n'  # lines 3 and 4
        '\nquotes, a cat, a dog, "{"dog": 2}"\n'
        "json, a cat, a dog, {dog: 2}\n"
        'list, a cat, a dog, [2], "{""cat"": 1}"\n'
        ", a cat, a dog\n"
        "cells, a cat, a dog, , , , more\n"
        'file, a cat, a dog, "{""fox"": 2}", , gone.png\n'
        "ok, a cat,\n"
        "ok, a cat, a pig\n"
    )
    with pytest.raises(ValueError) as error:
        table(tmp_path, "t.csv", text).load()
    told = [line.strip() for line in str(error.value).splitlines()]
    expected = [
        "t.csv has 11 problems:",
        r"line 3: id 'multi': source_prompt = 'a\ncat': words must be separated by single spaces",
        "line 6: is not CSV",
        "line 7: weights = '{dog: 2}': is not JSON",
        "line 8: weights = [2]: must be an object of word and factor",
        "line 8: blend_words = {'cat': 1}: must be a list of two texts",
        "line 9: id must not be empty",
        "line 10: has 7 cells, the header 6; a cell with a comma in it must stand in double quotes",
        "line 11: id 'file': weights: 'fox' is not in target_prompt 'a dog'",
        "line 11: id 'file': image",
        "line 12: target_prompt must not be empty",
        "line 13: id 'ok': must be unique",
    ]
    assert len(told) == len(expected)
    assert all(start in line for start, line in zip(expected, told, strict=True))


def test_jsonl_problems_come_together_with_their_lines(tmp_path: Path) -> None:
    text = (
        '{"id": "a", "source_prompt": "a cat"}\n'
        "not json\n"
        '["a", "list"]\n'
        '{"id": "b", "source_prompt": "a cat", "target_prompt": "a dog", "prompt": "x"}\n'
        '{"id": true, "source_prompt": 5, "target_prompt": "a dog"}\n'
        '{"id": "c", "source_prompt": "a cat", "target_prompt": "a dog", "weights": {"dog": 1, "dog": 2}}\n'
        '{"id": "d", "source_prompt": "a cat", "target_prompt": "a dog", "weights": {"dog": NaN}}\n'
    )
    with pytest.raises(ValueError) as error:
        table(tmp_path, "t.jsonl", text).load()
    told = str(error.value)
    for expected in [
        "8 problems",
        "line 1: target_prompt must not be empty",
        "line 2: 'not json': is not JSON",
        'line 3: \'["a", "list"]\': must be a JSON object',
        "line 4: unknown 'prompt': the columns are id, source_prompt, target_prompt, edit_type",
        "line 5: id = True: must be a text",
        "line 5: source_prompt = 5: must be a text",
        "a key stands twice",
        "line 7: id 'd': weights['dog'] = nan: must be a finite number",
    ]:
        assert expected in told


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "", "has no rows"),
        ("t.csv", "id,source_prompt,target_prompt\n", "has no rows"),
        ("t.jsonl", "\n\n", "has no rows"),
        (
            "t.csv",
            "id,source,target_prompt\na,b,c\n",
            "header: unknown 'source'; missing 'source_prompt' .the columns are",
        ),
        ("t.csv", "id;source_prompt;target_prompt\na;b;c\n", "parted by commas, not by ';'"),
        ("t.csv", "id\tsource_prompt\ttarget_prompt\na\tb\tc\n", r"parted by commas, not by '\\t'"),
        ("t.csv", "id,id,source_prompt,target_prompt\na,b,c,d\n", "header: twice 'id'"),
        (
            "t.jsonl",
            '{"id": "a", "weights": ' + "[" * 100_000 + "}",
            r"""line 1: '{"id": "a".*: lists or objects in one another, more than can be read""",
        ),
        (
            "t.csv",
            "id,source_prompt,target_prompt,weights\na,a cat,a dog," + "[" * 100_000,
            r"line 2: weights = '\[.*: lists or objects in one another, more than can be read",
        ),
        (
            "t.jsonl",
            '{"id": "a", "source_prompt": "a cat", "target_prompt": "a dog"}\n'
            '{"id": "b", "source_prompt": "a cat", "target_prompt": "a \\ud83d"}',
            "line 2: id 'b': target_prompt = .*: holds half of a character",
        ),
        ("t.xlsx", "", "must end in .csv or .jsonl"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table(tmp_path, name, text).load()


def test_other_encodings_and_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("id,source_prompt,target_prompt\n1,Bär,Käfer\n".encode("latin-1"))
    with pytest.raises(ValueError, match="t.csv': is not UTF-8"):
        Table(name="mine", path=tmp_path / "t.csv").load()
    with pytest.raises(ValueError, match=r"gone.csv': there is no such file"):
        Table(name="mine", path=tmp_path / "gone.csv").load()
