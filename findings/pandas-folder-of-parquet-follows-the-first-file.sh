#!/usr/bin/env bash
# Reading a folder of parquet files drops the columns, and the dictionary keys, that its first file lacks.
#
# Package: pandas 3.1.1 with pyarrow 26.0.1.
# Guess: `pandas.read_parquet(folder)` gives the rows of all files with the union of their columns, as
#   `pandas.concat` of the single files does; if it cannot, it raises.
# Found: the file whose name sorts first decides. A column that only later files have is left out, and of a column
#   of dictionaries every key that the first file does not know is lost, {"dog": 3.0} being read as {"cat": None}.
#   No error, no warning. The reverse order keeps the column and fills with missing values.
# Matters: benchmarks write one file per group of edits and read the folder. A column that was added later (a mask,
#   a guidance, a new metric), or per-word weights such as {"dog": 3.0}, vanish for all rows when one old file sorts
#   first; grouping by it fails or, worse, an average is taken over settings that were thought apart.
# Source: https://github.com/apache/arrow/issues/33312: of a directory's files Arrow inspects the first alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile pandas==3.1.1 pyarrow==26.0.1 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
from pathlib import Path

import pandas


def read(name, *frames):
    folder = Path(name)
    folder.mkdir()
    for number, frame in enumerate(frames):
        frame.to_parquet(folder / f"{number}.parquet")
    return pandas.read_parquet(folder)


old = pandas.DataFrame({"pair": ["a"], "weights": [{"cat": 2.0}]})
new = pandas.DataFrame({"pair": ["b"], "weights": [{"dog": 3.0}], "guidance": [7.5]})
first_old, first_new = read("old", old, new), read("new", new, old)
print(first_old.to_string(), first_new.to_string(), sep="\n")
assert list(pandas.concat([old, new]).columns) == ["pair", "weights", "guidance"]
assert list(first_old.columns) == ["pair", "weights"], "the column of the later file is kept now"
assert list(first_old.weights) == [{"cat": 2.0}, {"cat": None}], "the key of the later file is kept now"
assert list(first_new.columns) == ["pair", "weights", "guidance"]
assert list(first_new.weights) == [{"dog": 3.0}, {"dog": None}]
PYTHON
