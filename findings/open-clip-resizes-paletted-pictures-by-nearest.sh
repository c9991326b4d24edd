#!/usr/bin/env bash
# open_clip's transform samples a paletted picture by its nearest pixels: the same pixels score otherwise as RGB.
#
# Package: open_clip_torch 3.3.0 (with torchvision 0.29.1 and pillow 13.0.0).
# Guess: a PNG of 256 colours and an RGB PNG of the same pixels give the same tensor, as the transform makes RGB.
# Found: it resizes first and makes RGB afterwards. Pillow resizes palettes and 1-bit pictures by the nearest pixel,
#   whatever filter is asked for, so that bicubic with antialiasing is nothing for them. A fine pattern is as far off as
#   black from white. RGB, RGBA and grey pictures are resized as asked; `CLIPImageProcessor` of transformers 5.23.0 makes
#   RGB first, and has equal tensors.
# Matters: CLIP scores of GIFs, of PNGs that an optimiser gave a palette, and of screenshots are scores of an aliased
#   picture, and cannot be compared with those of RGB files. `.convert("RGB")` before the transform is enough.
# Source: `image_transform` in open_clip/transform.py (`MaybeConvertMode` behind `Resize` and `CenterCrop`); `resize` of
#   https://pillow.readthedocs.io/en/stable/reference/Image.html for the filter of palettes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.14.1 torchvision==0.29.1 open_clip_torch==3.3.0 \
    transformers==5.23.0 pillow==13.0.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import numpy as np
import open_clip
from PIL import Image
from transformers import CLIPImageProcessor

rows, columns = np.mgrid[0:512, 0:512]
pattern = (np.sin(columns / 3) + np.sin(rows / 5) > 0).astype(np.uint8) * 255
picture = Image.fromarray(pattern).convert("RGB")
same = {
    "palette": picture.quantize(256),
    "1 bit": picture.convert("1", dither=Image.Dither.NONE),
    "RGBA": picture.convert("RGBA"),
    "grey": picture.convert("L"),
}
transform = open_clip.image_transform(224, is_train=False)
processor = CLIPImageProcessor()
of_hub = lambda image: processor(image, return_tensors="pt")["pixel_values"][0]
for name, other in same.items():
    assert np.array_equal(np.asarray(other.convert("RGB")), np.asarray(picture)), name
    apart = (transform(other) - transform(picture)).abs()
    elsewhere = float((of_hub(other.convert("RGB") if name == "1 bit" else other) - of_hub(picture)).abs().max())
    print(f"{name}: open_clip mean {float(apart.mean()):.3f}, most {float(apart.max()):.3f}; transformers {elsewhere:.3f}")
    assert elsewhere == 0
    assert (float(apart.max()) > 2.5) == (name in ("palette", "1 bit")), f"{name} is resized otherwise than it was"
    assert (float(apart.max()) == 0) == (name in ("RGBA", "grey")), f"{name} is resized otherwise than it was"
PYTHON
