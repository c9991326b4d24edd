"""What inversions without optimisation promise: exact sources, and the bounds of the proximal operator."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from p2p import (
    DDIM,
    Direct,
    EditFriendly,
    FixedSeed,
    NegativePrompt,
    PromptToPrompt,
    Proximal,
    StableDiffusion,
    generate,
)
from p2p.engine import tree_latents
from p2p.source_path import Shrink
from tests.p2p.inversion.inverting import ROUNDING, SAMPLING, SOURCE, SWAP, UNGUIDED, encoded, group, latents


def test_negative_prompt_undoes_guidance_for_the_source(model: StableDiffusion, image: Tensor) -> None:
    [guided, same] = latents(model, image, NegativePrompt(), [(SOURCE, FixedSeed())])
    [plain, _] = latents(model, image, DDIM(), [(SOURCE, FixedSeed())], UNGUIDED)
    torch.testing.assert_close(guided, plain, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(same, plain, rtol=0, atol=ROUNDING)


def test_proximal_lies_between_negative_prompt_and_the_source(model: StableDiffusion, image: Tensor) -> None:
    edits = [(SWAP, PromptToPrompt(tau=0.5)), (SWAP, FixedSeed())]
    plain = latents(model, image, NegativePrompt(), edits)
    for all_kept in (Proximal(quantile=0.0), Proximal(threshold=0.0), Proximal("l1", threshold=0.0)):
        for ours, theirs in zip(latents(model, image, all_kept, edits), plain, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=ROUNDING)
    source, *edited = latents(model, image, Proximal(threshold=1e9), edits)
    torch.testing.assert_close(edited[1], source, rtol=0, atol=ROUNDING)  # all guided by the source's prompt
    some = latents(model, image, Proximal(), edits)[2]
    assert 0 < (some - source).abs().sum() < (plain[2] - source).abs().sum()


def test_shrink_is_the_proximal_operator_of_each_norm() -> None:
    difference = torch.tensor([-3.0, -1.0, 0.5, 2.0])
    assert Shrink("l0", threshold=1.0)(difference).tolist() == [-3.0, 0.0, 0.0, 2.0]
    assert Shrink("l1", threshold=1.0)(difference).tolist() == [-2.0, 0.0, 0.0, 1.0]
    # As the authors' code and PnP Inversion's write it, under the name l0.
    assert torch.equal(Shrink("l1", threshold=1.0)(difference), difference - difference.clamp(-1, 1))
    # With the source's four zeros the sizes are 0, 0, 0, 0, 0.5, 1, 2, 3: the 5/7 quantile is 1.
    assert Shrink("l0", quantile=5 / 7 + 1e-6)(difference).tolist() == [-3.0, 0.0, 0.0, 2.0]


@pytest.mark.parametrize("guidance_scale", [1.0, pytest.param(3.0, marks=pytest.mark.slow), 20.0])
def test_direct_gives_the_source_back_bit_for_bit(
    model: StableDiffusion, image: Tensor, guidance_scale: float
) -> None:
    sampling = replace(SAMPLING, guidance_scale=guidance_scale)
    edits = [(SWAP, PromptToPrompt(tau=0.2)), (SOURCE, FixedSeed())]
    source, swap, same = latents(model, image, Direct(), edits, sampling)
    assert torch.equal(source, encoded(model, image))
    assert not torch.equal(swap, source)
    # The edit with the source's own prompt starts from the same noise, but is not put back.
    torch.testing.assert_close(same, latents(model, image, DDIM(), edits, sampling)[0], rtol=0, atol=ROUNDING)
    [edited] = generate(model, [group(model, image, Direct(), edits)], sampling)
    assert edited.reconstruction is not None
    torch.testing.assert_close(edited.reconstruction, model.decode(source[None])[0], rtol=0, atol=0)


@pytest.mark.parametrize("inversion", [EditFriendly(skip=0.25), EditFriendly(1.0, 0.0)])
@pytest.mark.parametrize("last", [False, True])
def test_edit_friendly_gives_the_source_back_for_every_seed(
    model: StableDiffusion, image: Tensor, inversion: EditFriendly, last: bool, scheduler: Any
) -> None:
    scheduler(DDIMScheduler, set_alpha_to_one=last)
    groups = [group(model, image, inversion, [(SWAP, FixedSeed())], seed=seed) for seed in (0, 1)]
    found = tree_latents(model, groups, SAMPLING)
    for g in (0, 1):
        torch.testing.assert_close(found[g, 0], encoded(model, image), rtol=0, atol=ROUNDING)
    assert (found[0, 1] - found[1, 1]).abs().max() > 1000 * ROUNDING  # two edits of one image


def test_rescaled_guidance_leads_back_to_the_source_too(model: StableDiffusion, image: Tensor) -> None:
    """Within what it takes without rescaling, which multiplies by one more ratio: of deviations that are 1 up
    to rounding where the guidance has no effect, or else the same at the inversion and at its replay.
    """
    rescaled = replace(SAMPLING, guidance_rescale=0.7)
    edits = [(SWAP, FixedSeed())]
    [unguided, _] = latents(model, image, DDIM(), edits, UNGUIDED)
    wanted = {
        Direct(): encoded(model, image),
        EditFriendly(skip=0.25): encoded(model, image),
        NegativePrompt(): unguided,
    }
    for inversion, source in wanted.items():
        found, swap = latents(model, image, inversion, edits, rescaled)
        torch.testing.assert_close(found, source, rtol=0, atol=ROUNDING)
        assert (swap - latents(model, image, inversion, edits)[1]).abs().max() > 1000 * ROUNDING
