#!/usr/bin/env bash
# SSIM of the same two pictures changed in a patch release: the mirrored border counts since 1.4.2.
#
# Package: torchmetrics 1.9.0 and 1.4.1, beside scikit-image 0.26.0.
# Guess: a patch release keeps the value of a metric, and torchmetrics' SSIM (11 x 11 Gaussian) is the one of
#   scikit-image with the same window.
# Found: up to 1.4.1 it is, to five digits. From 1.4.2 on the mean also takes the outer 5 pixels, which are computed
#   from mirrored pixels. Where only the middle is changed, as in most edits, 1.9.0 says 0.677 for what 1.4.1 and
#   scikit-image call 0.547 (64 x 64), and 0.663 for 0.650 at 512 x 512. The old value is the mean of the full map
#   without its border.
# Matters: columns of published tables were computed with older releases. A rerun of the same edits looks better by
#   about a point of 100 at 512 x 512, and by ten at the size of small test models, with no other change.
# Source: https://github.com/Lightning-AI/torchmetrics/pull/2721; `_ssim_update` in torchmetrics/functional/image/ssim.py.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile \
    torch==2.14.1 torchmetrics==1.9.0 scikit-image==0.26.0 numpy==2.4.6 setuptools==80.9.0
"$folder/venv/bin/pip" install --quiet --no-compile --no-deps --target "$folder/old" torchmetrics==1.4.1
cd "$folder"
cat >ssim.py <<'PYTHON'
import numpy
import torch
import torchmetrics
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

generator = numpy.random.default_rng(0)
for side, margin in ((64, 12), (512, 96)):
    rows, columns = numpy.mgrid[:side, :side] * (8 / side)
    source = 0.5 + 0.2 * numpy.sin(rows) * numpy.cos(columns) + 0.02 * generator.standard_normal((side, side))
    edit = source.copy()
    middle = slice(margin, side - margin)
    edit[middle, middle] += 0.1 * generator.standard_normal((side - 2 * margin,) * 2)
    torch_pair = [torch.from_numpy(picture)[None, None] for picture in (edit, source)]
    mean, full = structural_similarity_index_measure(*torch_pair, data_range=1.0, return_full_image=True)
    reference = structural_similarity(
        edit, source, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    print(f"{torchmetrics.__version__} {side} {float(mean):.5f} {float(full[..., 5:-5, 5:-5].mean()):.5f} {reference:.5f}")
PYTHON
echo "release, side, its SSIM, mean of its full map without the border, scikit-image"
venv/bin/python ssim.py | tee new.txt
PYTHONPATH=old venv/bin/python ssim.py | tee old.txt
venv/bin/python - <<'PYTHON'
new, old = ([line.split() for line in open(name)] for name in ("new.txt", "old.txt"))
for (version, side, mean, inner, reference), (other, _, before, _, _) in zip(new, old, strict=True):
    assert (version, other) == ("1.9.0", "1.4.1")
    mean, inner, reference, before = map(float, (mean, inner, reference, before))
    assert abs(before - reference) < 2e-5, "1.4.1 is not scikit-image's value"
    assert abs(inner - reference) < 2e-5, "the inner part of the map is not the old value"
    assert mean - reference > (0.03 if side == "64" else 0.002), "1.9.0 leaves the border out again"
PYTHON
