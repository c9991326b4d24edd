#!/usr/bin/env bash
# A picture that was opened from a file and then changed in place goes into a dataset as the file was.
#
# Package: datasets 5.2.0 with Pillow 13.0.0.
# Guess: `Dataset.from_dict({"image": [picture]})` stores the pixels that `picture` has.
# Found: of a picture that still knows its file it stores the file's name, or, in `save_to_disk` and `to_parquet`, the
#   file's bytes. What Pillow changes in place is lost without a word: a mask drawn with ImageDraw, `paste`, `putalpha`,
#   `thumbnail`. What comes from a method that returns a new picture (`copy`, `convert`, `resize`) is stored as it is.
#   The same picture saved by Pillow has the drawing.
# Matters: sources whose masked area was painted over come back whole, and a pipeline or a metric is given what it
#   should not see; thumbnails come back in full size. If the file is overwritten later, so is the dataset's picture.
#   `picture.copy()` is enough.
# Source: `encode_pil_image` in datasets/features/image.py.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile datasets==5.2.0 pillow==13.0.0 numpy==2.4.6
cd "$folder"
HF_HOME=$folder/cache HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 venv/bin/python - <<'PYTHON'
import numpy
from datasets import Dataset, load_dataset
from PIL import Image, ImageDraw

Image.new("RGB", (32, 32), "white").save("white.png")


def stored(picture):
    return Dataset.from_dict({"image": [picture]})


def mean(picture):
    return float(numpy.asarray(picture.convert("L")).mean())


drawn = Image.open("white.png")
ImageDraw.Draw(drawn).rectangle([0, 0, 15, 31], fill="black")
small = Image.open("white.png")
small.thumbnail((8, 8))
clear = Image.open("white.png")
clear.putalpha(0)
drawn.save("drawn.png")
stored(drawn).to_parquet("drawn.parquet")
means = {
    "the picture": mean(drawn),
    "saved by Pillow": mean(Image.open("drawn.png")),
    "stored": mean(stored(drawn)[0]["image"]),
    "by way of Parquet": mean(load_dataset("parquet", data_files="drawn.parquet", split="train")[0]["image"]),
    "a copy of it stored": mean(stored(drawn.copy())[0]["image"]),
}
print("mean of a white picture, half of it drawn black:", means)
assert list(means.values()) == [127.5, 127.5, 255.0, 255.0, 127.5], "the drawing is stored"
size, mode = stored(small)[0]["image"].size, stored(clear)[0]["image"].mode
print("of size", small.size, "stored as", size, "and of mode", clear.mode, "stored as", mode)
assert (small.size, size) == ((8, 8), (32, 32)), "the thumbnail is stored"
assert (clear.mode, mode) == ("RGBA", "RGB"), "the alpha channel is stored"

dataset = stored(Image.open("white.png"))
Image.new("RGB", (32, 32), "black").save("white.png")
assert mean(dataset[0]["image"]) == 0, "the dataset kept the pixels of the time when it was made"
PYTHON
