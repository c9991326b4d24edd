#!/usr/bin/env bash
# Mean squared and mean absolute error of 8-bit pictures wrap at 256: 16 levels apart is no error, 1 darker is 255.
#
# Package: torchmetrics 1.9.0.
# Guess: `MeanSquaredError` and `MeanAbsoluteError` take 8-bit pictures as `PeakSignalNoiseRatio` does, or refuse them
#   as SSIM does.
# Found: they take them, and subtract and square in 8 bits. All pixels 16 levels brighter is a squared error of 0 for
#   256, one level darker an absolute error of 255 for 1. PSNR of the same two pictures is right (the same fault was
#   reported for 1.4.1 and has been mended there, not in these two).
# Matters: an edit's error outside its mask comes out small for a large change and large for a small one, and is still
#   a number between 0 and 255. MSE and PSNR of one run contradict each other. `.float()` before the call is enough.
# Source: https://github.com/Lightning-AI/torchmetrics/issues/2787 for PSNR; `_mean_squared_error_update` in
#   torchmetrics/functional/regression/mse.py and `_mean_absolute_error_update` in mae.py beside it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.14.1 torchmetrics==1.9.0 numpy==2.4.6 setuptools==80.9.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import math

import torch
from torchmetrics import MeanAbsoluteError, MeanSquaredError
from torchmetrics.image import PeakSignalNoiseRatio

source = torch.randint(64, 192, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
found = {}
for name, edit in (("16 levels brighter", source + 16), ("1 level darker", source - 1)):
    found[name] = [
        (float(metric(edit, source)), float(metric(edit.float(), source.float())))
        for metric in (MeanSquaredError(), MeanAbsoluteError(), PeakSignalNoiseRatio(data_range=255.0))
    ]
    print(name, "(8 bits, float): squared, absolute, PSNR:", found[name])
squared, absolute, psnr = found["16 levels brighter"]
assert squared == (0.0, 256.0), "the squared error of 8 bits does not wrap"
assert absolute == (16.0, 16.0)
assert all(math.isclose(value, 10 * math.log10(255**2 / 256), abs_tol=1e-3) for value in psnr), "PSNR is not right"
squared, absolute, psnr = found["1 level darker"]
assert squared == (1.0, 1.0)
assert absolute == (255.0, 1.0), "the absolute error of 8 bits does not wrap"
PYTHON
