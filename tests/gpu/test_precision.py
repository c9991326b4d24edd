"""Half precision on the device: images are finite, and near those of single precision on the CPU."""

import pytest

from p2p import Group, Sampling, generate
from tests.gpu.conftest import Load
from tests.gpu.test_engine import CASES, SOURCE, STEPS

pytestmark = pytest.mark.gpu

SAMPLING = Sampling(STEPS, 3.0)
# Mean difference of values in [0, 1]; at most 0.0002 and 0.0036 where the CPU computes in these.
NEAR = {"float16": 0.002, "bfloat16": 0.02}


@pytest.mark.parametrize("dtype", NEAR)
def test_half_precision(embedded: Load, device: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every method; the bound is far below the distance to another seed's image.

    Both sides start from single precision's noise: in PyTorch 2.11 a seed draws other numbers in half.
    """
    here, there = embedded("float32", "cpu"), embedded(dtype, device)
    draw = here.draw_noise
    monkeypatch.setattr(there, "draw_noise", lambda some: draw(some).to(there.device, there.dtype))
    names = ("fixed_seed", "replace", "refine", "local_blend", "masactrl", "plug_and_play", "sdedit")
    edits = tuple(CASES[name].trajectory(here) for name in names)
    [theirs] = generate(here, [Group(SOURCE, 1, edits)], SAMPLING)
    [ours] = generate(there, [Group(SOURCE, 1, edits)], SAMPLING)
    [other] = generate(here, [Group(SOURCE, 2, ())], SAMPLING)
    far = (other.source - theirs.source).abs().mean().item()
    for name, image, same in zip(
        ("source", *names), (ours.source, *ours.images), (theirs.source, *theirs.images), strict=True
    ):
        assert image.isfinite().all()
        distance = (image - same).abs().mean().item()
        assert distance < min(NEAR[dtype], far / 5), f"{name}: {distance:.4f}, another seed: {far:.4f}"
