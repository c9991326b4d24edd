#!/usr/bin/env bash
# A mask in the palette format of VOC and DAVIS counts as empty in diffusers: inpainting changes nothing, silently.
#
# Package: diffusers 0.42.1 (with pillow 13.0.0).
# Guess: every pixel of a mask that is not 0 (background) is to be painted, or a mask of class numbers is refused.
# Found: a paletted mask is read by the lightness of its colours, and halved at 50 %. The palette of both data sets, made
#   to tell classes apart, gives class 1 dark red (0.15), class 2 dark green (0.29), class 3 dark yellow (0.45): nothing
#   of these is marked. Of VOC's 20 classes only car, table, person and train are. Saved as 0 and 255 all would be.
# Matters: editing inside the objects of VOC, DAVIS or any set that keeps their palette returns the source picture, a
#   perfect score for the background; with several objects only the lighter ones are edited. There is no warning.
# Source: `VaeImageProcessor.convert_to_grayscale` and `binarize` in diffusers/image_processor.py; the palette by the
#   rule of the VOC development kit, https://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.14.1 diffusers==0.42.1 transformers==5.23.0 pillow==13.0.0 \
    numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import numpy as np
from diffusers.image_processor import VaeImageProcessor
from PIL import Image


def colour(number: int) -> list[int]:
    """Spread the bits of a class number over the high bits of red, green and blue."""
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= ((number >> (3 * bit + channel)) & 1) << (7 - bit) if 3 * bit + channel < 8 else 0
    return channels


assert [colour(n) for n in (1, 2, 3, 15)] == [[128, 0, 0], [0, 128, 0], [128, 128, 0], [192, 128, 128]]
palette = [channel for number in range(256) for channel in colour(number)]
# As inpainting pipelines make it.
masks = VaeImageProcessor(vae_scale_factor=8, do_normalize=False, do_binarize=True, do_convert_grayscale=True)
marked = []
for number in range(1, 21):
    classes = np.zeros((64, 64), np.uint8)
    classes[16:48, 16:48] = number
    mask = Image.fromarray(classes, mode="L")
    mask.putpalette(palette)
    assert mask.mode == "P"
    mask.save("mask.png")
    share = float(masks.preprocess(Image.open("mask.png")).mean())
    assert share in (0.0, 0.25)
    assert float(masks.preprocess(Image.fromarray((classes > 0) * np.uint8(255))).mean()) == 0.25
    marked += [number] if share else []
print("classes of 1 to 20 that are painted:", marked)
assert marked == [7, 11, 15, 19], "a palette mask is read otherwise than it was"
PYTHON
