"""Where text and image share one softmax (SD 3, Flux, Qwen-Image ...): the CPU's latents on the device."""

from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

from p2p import EditRequest, Flux, Group, Model, Projections, PromptToPrompt, Sampling, StableDiffusion3
from p2p.engine import generate, tree_latents
from tests.p2p.families.test_flux import tiny_pipeline as tiny_flux
from tests.p2p.families.test_flux2 import ShortKlein, tiny_klein
from tests.p2p.families.test_qwen_image import ShortText
from tests.p2p.families.test_stable_diffusion_3 import tiny_pipeline as tiny_sd3
from tests.p2p.families.tiny_qwen import tiny_pipeline as tiny_qwen

pytestmark = pytest.mark.gpu

STEPS, SIDE = 4, 8
SOURCE = "a cat on a bench"
# In double precision, but the scheduler rounds latents to single at every step.
TOLERANCE = 1e-5
FAMILIES: dict[str, Callable[[str], Model]] = {
    "sd3": lambda device: StableDiffusion3(tiny_sd3().to(device), SIDE, SIDE),
    "flux": lambda device: Flux(tiny_flux().to(device), SIDE, SIDE, height=32, width=32),
    "flux2_klein": lambda device: ShortKlein(tiny_klein().to(device), SIDE, SIDE, height=32, width=32),
    "qwen_image": lambda device: ShortText(tiny_qwen().to(device), SIDE, SIDE, height=32, width=32),
}


@pytest.mark.parametrize("max_batch", [2, 64])
@pytest.mark.parametrize("family", FAMILIES)
def test_edits_of_a_joint_softmax(device: str, family: str, max_batch: int) -> None:
    """Replace, refine, a local blend and projections in one batch, cut small and not at all."""
    here, there = FAMILIES[family]("cpu"), FAMILIES[family](device)
    swap, wear = "a dog on a bench", "a cat with a hat on a bench"
    requests = [
        EditRequest(SOURCE, swap),
        EditRequest(SOURCE, wear),
        EditRequest(SOURCE, swap, blend_words=("cat", "dog")),
    ]
    method = PromptToPrompt(tau=0.25, self_replace_steps=0.5)
    edits = tuple(method.trajectory(request, here.tokenizers, STEPS) for request in requests)
    edits += (Projections(0.5, "double-0..1").trajectory(requests[0], here.tokenizers, STEPS),)
    groups = [Group(SOURCE, seed, edits) for seed in (0, 1)]
    theirs = tree_latents(here, groups, Sampling(STEPS, 3.0))
    ours = tree_latents(there, groups, Sampling(STEPS, 3.0, max_batch=max_batch))
    assert ours.keys() == theirs.keys()
    for key, latents in ours.items():
        assert_close(latents.cpu(), theirs[key], rtol=0, atol=TOLERANCE)
    assert (theirs[0, 1] - theirs[0, 0]).abs().max() > 100 * TOLERANCE
    [image] = generate(there, [Group(SOURCE, 0, ())], Sampling(STEPS, 3.0))
    assert torch.isfinite(image.source).all()
