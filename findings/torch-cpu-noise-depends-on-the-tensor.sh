#!/usr/bin/env bash
# The first row of a batch of noise is not the noise of that row alone.
#
# Package: torch 2.14.1, on a CPU.
# Guess: the same seed draws the same sequence of numbers. Two latents drawn with one generator begin with the
#   numbers that one latent gets, and float16 latents are the float32 ones, rounded.
# Found: both hold only where the number of values is a multiple of 16, as with 64 x 64 latents. With 65 x 65
#   latents (520 pixels) the last 16 values of a lone row differ from the first row of a batch, by up to several
#   standard deviations, and float16 differs from float32 in the same places. float64 draws another sequence
#   altogether, at every size.
# Matters: diffusers draws latents on the CPU where the generator is there, so that a seed means one picture on
#   every machine. At odd latent sizes the picture of a seed depends on how many pictures are asked for in one call,
#   and a float64 run that is to settle whether a difference is rounding starts from other noise.
# Source: aten/src/ATen/native/cpu/DistributionTemplates.h of PyTorch: `normal_fill` works in blocks of 16 float
#   or double values and draws the last 16 again where a tensor does not end on a block.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.14.1 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import torch


def noise(rows, side, dtype=torch.float32):
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn((rows, 4, side, side), generator=generator, dtype=dtype)


def changed(one, other):
    difference = (one.double() - other.double()).abs()
    return int((difference > 0.01).sum()), round(float(difference.max()), 3)


found = {}
for side in (64, 65):
    found[side] = {
        "row of a batch": changed(noise(2, side)[0], noise(1, side)[0]),
        "float16": changed(noise(1, side, torch.float16), noise(1, side)),
    }
    print(f"{side} x {side} latents, values that differ and by how much:", found[side])
share = changed(noise(1, 64, torch.float64), noise(1, 64))[0] / noise(1, 64).numel()
print(f"float64 at 64 x 64: {share:.0%} of the values differ")

assert found[64]["row of a batch"] == (0, 0.0), "64 x 64: a row of a batch differs from the row alone"
assert found[64]["float16"][0] == 0, "64 x 64: float16 is not float32, rounded"
assert found[65]["row of a batch"][0] >= 8 and found[65]["row of a batch"][1] > 1, "65 x 65: a row is the same now"
assert found[65]["float16"][0] >= 8 and found[65]["float16"][1] > 1, "65 x 65: float16 is float32 now"
assert share > 0.9, "float64 draws the numbers of float32 now"
PYTHON
