"""Flux.2 dev, which is told its guidance scale and whose text stands behind a system message, by the same
loops written by hand as Klein: projections, inversions of its flow, FlowEdit, Uni-Edit; and on a GPU that is
not there."""

import pytest
import torch
from torch import Tensor

from p2p import FireFlow, FixedSeed, FlowEdit, Inversion, Model, Projections, UniEdit, UniInv
from p2p.engine import source_paths, tree_latents
from tests.p2p import test_flow_edit, test_projections, test_uni_edit
from tests.p2p.inversion.flow_models import ROUNDED, SAMPLING, STEPS, SWAP, group, rows, tiny_flow_model
from tests.p2p.inversion.test_flow_inversions import published
from tests.p2p.made_up_device import MadeUpDevice
from tests.p2p.taped_processors import EVERY
from tests.p2p.test_devices import PROMPT_TO_PROMPT, denoise_there

pytestmark = pytest.mark.xdist_group("flux2")


@pytest.fixture(scope="module")
def dev() -> Model:
    return tiny_flow_model("flux2_dev")


def assert_near(ours: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize(
    "method", [Projections(0.4), Projections(0.6, share=["values", "text_values"], heads=[1])], ids=str
)
def test_projections_equal_a_loop(dev: Model, method: Projections) -> None:
    window = range(2 if method.heads is None else 3)
    layers = EVERY["flux2_klein"]
    expected = torch.stack(test_projections.by_hand(dev, layers, window, method))
    one = test_projections.group(dev, [(SWAP, method), (SWAP, FixedSeed())])
    ours = tree_latents(dev, [one], SAMPLING)
    assert_near(torch.stack([ours[0, 0], ours[0, 1]]), expected, ROUNDED)
    assert (ours[0, 1] - ours[0, 2]).abs().max() > 10 * ROUNDED
    assert rows(dev) == 1


@torch.no_grad()
@pytest.mark.parametrize("inversion", [FireFlow(), UniInv(alpha=0.6)], ids=lambda one: one.name)
def test_inversions_lead_where_the_published_loops_do(
    dev: Model, picture: Tensor, inversion: Inversion
) -> None:
    one = group(dev, picture, inversion, [(SWAP, FixedSeed())])
    [path] = source_paths(dev, [one], SAMPLING)
    ours = tree_latents(dev, [one], SAMPLING, paths=[path])
    noise, source, edit = published(dev, picture, inversion)  # type: ignore[arg-type]
    assert path is not None
    assert_near(path.latents[None], noise)
    assert_near(ours[0, 0][None], source)
    assert_near(ours[0, 1][None], edit)
    assert (edit - source).abs().max() > 1e-2


@torch.no_grad()
def test_edits_of_a_flow_are_told_their_own_scales(dev: Model, picture: Tensor) -> None:
    moved, mixed = FlowEdit(n_max=4), UniEdit(0.6, 2.0, guidance_scale=2.0)
    ours = test_flow_edit.edited(dev, picture, [test_flow_edit.trajectory(dev, moved)])
    assert_near(ours, test_flow_edit.by_hand(dev, picture, moved, SWAP))
    ours = test_uni_edit.edited(dev, picture, [test_uni_edit.trajectory(dev, mixed)])
    assert_near(ours, test_uni_edit.by_hand(dev, picture, mixed, SWAP))
    unguided = test_uni_edit.by_hand(dev, picture, UniEdit(0.6, 2.0), SWAP)
    assert (ours - unguided).abs().max() > 1e-3
    assert STEPS == test_flow_edit.STEPS == test_uni_edit.STEPS


def test_no_step_waits() -> None:
    device = MadeUpDevice("cuda")
    model = tiny_flow_model("flux2_dev", torch.float32)
    device.put(model.pipeline, model.denoiser)
    waits = denoise_there(model, device, [PROMPT_TO_PROMPT[0], (SWAP, Projections(1.0))], steps=2)
    assert waits.calls == 2
    assert waits.between(1, 2) == []
