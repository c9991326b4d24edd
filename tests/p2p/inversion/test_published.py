"""The settings of published runs (`conf/inversion`, `conf/grid/pie*`) lead where the published formulas lead.

The formulas are written out by hand, step by step and without the scheduler: PnP Inversion's run on PIE-Bench
(cure-lab/PnPInversion, run_editing_p2p.py and run_editing_edit_friendly_p2p.py). It has 50 DDIM steps;
where five are made here, what it counts in steps of 50 is a share of the steps.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import instantiate
from torch import Tensor

from experiments.config_keys import CONF
from p2p import EditRequest, FixedSeed, PromptToPrompt, Sampling, StableDiffusion
from p2p.engine import tree_latents
from p2p.inversion import Inversion
from tests.p2p.inversion.inverting import SOURCE, SWAP, encoded, group

PUBLISHED_STEPS, STEPS, SCALE = 50, 5, 7.5
STRIDE = 1000 // STEPS
TIMES = [1 + STRIDE * k for k in reversed(range(STEPS))]  # steps_offset 1, from noise to image

Denoiser = Callable[[Tensor, int, Tensor], Tensor]
"""From latents (1, ...), timestep and text embedding to epsilon."""


class Published:
    """The published loops over one source and one target row, with nothing injected."""

    def __init__(self, model: StableDiffusion, image: Tensor) -> None:
        pipeline = model.pipeline
        self.pipeline, self.image = pipeline, encoded(model, image)[None]
        self.alphas = pipeline.scheduler.alphas_cumprod.to(self.image)
        self.source, self.target, self.empty = (self.text(prompt) for prompt in (SOURCE, SWAP, ""))

    def text(self, prompt: str) -> Tensor:
        ids = self.pipeline.tokenizer([prompt], padding="max_length", return_tensors="pt").input_ids
        return self.pipeline.text_encoder(ids).last_hidden_state.detach()

    def epsilon(self, latents: Tensor, time: int, text: Tensor) -> Tensor:
        return self.pipeline.unet(latents, time, text).sample

    def alpha(self, time: int) -> Tensor:
        return self.alphas[max(time, 0)]  # the published scheduler has `set_alpha_to_one` off

    def move(self, latents: Tensor, epsilon: Tensor, time: int, there: int) -> Tensor:
        """One deterministic DDIM step, either way."""
        here, to = self.alpha(time), self.alpha(there)
        clean = (latents - (1 - here).sqrt() * epsilon) / here.sqrt()
        return to.sqrt() * clean + (1 - to).sqrt() * epsilon

    def inverted(self) -> list[Tensor]:
        """x_0, ..., x_T under the source prompt alone, without guidance."""
        states = [self.image]
        for time in reversed(TIMES):
            epsilon = self.epsilon(states[-1], time, self.source)
            states.append(self.move(states[-1], epsilon, time - STRIDE, time))
        return states

    def edited(
        self,
        unconditional: Callable[[int], Tensor],
        shrink: Callable[[Tensor], Tensor] = lambda difference: difference,
        put_back: bool = False,
    ) -> Tensor:
        """Source and target (2, ...) from x_T on: both are guided, `shrink` sees the guidance of both."""
        states = self.inverted()
        rows = [states[-1], states[-1]]
        for step, time in enumerate(TIMES):
            negative = [self.epsilon(row, time, unconditional(step)) for row in rows]
            text = [self.epsilon(rows[0], time, self.source), self.epsilon(rows[1], time, self.target)]
            guidance = shrink(torch.cat(text) - torch.cat(negative))
            epsilon = torch.cat(negative) + SCALE * guidance
            rows = list(self.move(torch.cat(rows), epsilon, time, time - STRIDE).split(1))
            if put_back:
                rows[0] = rows[0] + (states[STEPS - 1 - step] - rows[0])
        return torch.cat(rows)

    def null_texts(self) -> list[Tensor]:
        """The unconditional embedding of every step (null_text_w_ptp.ipynb, `null_optimization`)."""
        states, found = self.inverted(), []
        latents, uncond = states[-1], self.empty
        for i, time in enumerate(TIMES):
            uncond = uncond.clone().requires_grad_()
            optimizer = torch.optim.Adam([uncond], lr=1e-2 * (1.0 - i / (2 * STEPS)))
            text = self.epsilon(latents, time, self.source).detach()
            for _ in range(10):
                with torch.enable_grad():
                    negative = self.epsilon(latents, time, uncond)
                    moved = self.move(latents, negative + SCALE * (text - negative), time, time - STRIDE)
                    loss = (moved - states[STEPS - 1 - i]).square().mean()
                    (gradient,) = torch.autograd.grad(loss, uncond)
                uncond.grad = gradient
                optimizer.step()
                if loss.item() < 1e-5 + i * (PUBLISHED_STEPS / STEPS) * 2e-5:
                    break
            uncond = uncond.detach()
            found.append(uncond)
            negative = self.epsilon(latents, time, uncond)
            latents = self.move(latents, negative + SCALE * (text - negative), time, time - STRIDE)
        return found

    def edit_friendly(self, skipped: int, draw: Callable[[], Tensor]) -> Tensor:
        """Source without guidance and target with it (2, ...), by the noise found for every step."""
        alphas = [self.alpha(time) for time in [*TIMES, TIMES[-1] - STRIDE]]
        noised = [a.sqrt() * self.image + (1 - a).sqrt() * draw() for a in alphas[:-1]]
        noised.append(self.image)
        rows = [noised[skipped], noised[skipped]]
        for step in range(skipped, STEPS):
            time, levels = TIMES[step], (alphas[step], alphas[step + 1])
            own = self.epsilon(noised[step], time, self.source)
            noise = noised[step + 1] - _mean(noised[step], own, *levels)
            negative = self.epsilon(rows[1], time, self.empty)
            guided = negative + SCALE * (self.epsilon(rows[1], time, self.target) - negative)
            rows = [noised[step + 1], _mean(rows[1], guided, *levels) + noise]
        return torch.cat(rows)


def _mean(latents: Tensor, epsilon: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """One DDPM step (eta 1) from level `here` to level `there`, without its noise."""
    variance = (1 - there) / (1 - here) * (1 - here / there)
    clean = (latents - (1 - here).sqrt() * epsilon) / here.sqrt()
    return there.sqrt() * clean + (1 - there - variance).sqrt() * epsilon


def _soft(difference: Tensor) -> Tensor:
    """prox_guidance's "l0" with a quantile of 0.75, over source and target together."""
    threshold = difference.abs().quantile(0.75)
    return difference - difference.clamp(-threshold, threshold)


def _inversion(name: str) -> Inversion:
    settings = yaml.safe_load((CONF / "inversion" / f"{name}.yaml").read_text())
    return instantiate(settings)  # type: ignore[no-any-return]


def _grid(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / "grid" / f"{name}.yaml").read_text())  # type: ignore[no-any-return]


FORMULAS: dict[str, Callable[[Published], Tensor]] = {
    "ddim": lambda run: run.edited(lambda step: run.empty),
    "negative_prompt": lambda run: run.edited(lambda step: run.source),
    "proximal_pie": lambda run: run.edited(lambda step: run.source, _soft),
    "direct": lambda run: run.edited(lambda step: run.empty, put_back=True),
    "null_text": lambda run: run.edited(run.null_texts().__getitem__),
}


def test_every_inversion_of_the_published_grid_has_its_formula() -> None:
    assert sorted(FORMULAS) == sorted(_grid("pie")["inversions"])
    assert _grid("pie_edit_friendly")["inversions"] == ["edit_friendly_pie"]
    assert set(_grid("pie_features")["inversions"]) <= set(FORMULAS)


@pytest.mark.parametrize("name", FORMULAS)
@torch.no_grad()
def test_the_inversion_leads_where_the_published_one_does(
    model: StableDiffusion, image: Tensor, name: str
) -> None:
    expected = FORMULAS[name](Published(model, image))
    _assert_equal(_ours(model, image, _inversion(name)), expected)


@torch.no_grad()
def test_edit_friendly_leads_where_the_published_one_does(model: StableDiffusion, image: Tensor) -> None:
    generator = torch.Generator().manual_seed(1234)
    skipped = 12 * STEPS // PUBLISHED_STEPS
    expected = Published(model, image).edit_friendly(skipped, lambda: model.draw_noise([generator]))
    _assert_equal(_ours(model, image, _inversion("edit_friendly_pie"), seed=1234), expected)


def _ours(model: StableDiffusion, image: Tensor, inversion: Inversion, seed: int = 0) -> Sequence[Tensor]:
    one = group(model, image, inversion, [(SWAP, FixedSeed())], seed=seed, steps=STEPS)
    found = tree_latents(model, [one], Sampling(num_inference_steps=STEPS, guidance_scale=SCALE))
    return found[0, 0], found[0, 1]


def _assert_equal(ours: Sequence[Tensor], published: Tensor) -> None:
    assert float((published[1] - published[0]).abs().max()) > 0.1  # the edit is one
    size = float(published.abs().max())
    for row, expected in zip(ours, published, strict=True):
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-6 * size)


@pytest.mark.parametrize(
    ("grid", "cross", "own"), [("pie", (0, 20), (0, 30)), ("pie_edit_friendly", (12, 32), (12, 42))]
)
def test_windows_end_where_the_published_ones_do(
    model: StableDiffusion, grid: str, cross: tuple[int, int], own: tuple[int, int]
) -> None:
    """20 and 30 steps from the first that is run: of 50, or of the 38 that edit-friendly inversion leaves."""
    settings = _grid(grid)
    first = _inversion(settings["inversions"][0]).start(PUBLISHED_STEPS)
    method = PromptToPrompt(**settings["methods"]["p2p"])
    record = method.trajectory(EditRequest(SOURCE, SWAP), model.tokenizers, PUBLISHED_STEPS).record
    assert (max(first, record["cross_start"]), record["cross_end"]) == cross
    assert (max(first, record["self_start"]), record["self_end"]) == own
