#!/usr/bin/env bash
# An image of floats between 0 and 1 is logged to W&B as black; older releases scaled it.
#
# Package: wandb 0.31.0, beside 0.18.7.
# Guess: `wandb.Image` of a float array in [0, 1], the range of diffusers' `output_type="np"` and of torchvision,
#   shows the picture; both take floats, and 0.18 did.
# Found: 0.31 cuts floats to whole numbers without scaling: 0.5 and 0.999 become grey level 0, and only exact ones
#   become 1. Mid-grey in [0, 1] was level 127 in 0.18.7. No warning.
# Matters: `pipe(..., output_type="np").images[0]` is such an array. After an upgrade the sample panels of a run are
#   black, which looks like the NaN of a half-precision decoder and is looked for in the model.
# Source: `_convert_to_uint8` in wandb/sdk/data_types/image.py; the documentation says that values are expected to be
#   in [0, 255].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/levels.py" <<'PYTHON'
import numpy
import wandb

ramp = numpy.array([[0.0, 0.25, 0.5, 0.999, 1.0]] * 5)[..., None].repeat(3, axis=2)
print([int(level) for level in numpy.asarray(wandb.Image(ramp).image)[0, :, 0]])
PYTHON
for version in 0.18.7 0.31.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet --no-compile "wandb==$version" numpy==2.4.6 pillow setuptools
    WANDB_MODE=offline "$folder/$version/bin/python" "$folder/levels.py" >"$folder/$version.txt"
    echo "wandb $version, grey levels of 0, 0.25, 0.5, 0.999, 1: $(cat "$folder/$version.txt")"
done
[[ $(cat "$folder/0.31.0.txt") == "[0, 0, 0, 0, 1]" ]]
[[ $(cat "$folder/0.18.7.txt") == "[0, 63, 127, 254, 255]" ]]
