"""Heat-maps of words against maps read off formed probabilities, and what may not be asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from p2p import (
    EditRequest,
    FixedSeed,
    Group,
    PromptToPrompt,
    Sampling,
    SDEdit,
    StableDiffusion,
    generate,
    heat_maps,
)
from p2p.attention.injection import inject_cross
from tests.p2p.naive import Controller, NaiveProcessor, Settings, naive_latents

STEPS = 4
SOURCE, TARGET = "a cat on a long bench", "a chinchilla on a long bench"  # a chinchilla is three tokens
WORDS = ("cat", "chinchilla", "a long bench", "a")
METHOD = PromptToPrompt(cross_replace_steps=0.5, self_replace_steps=0.25, weights={"long": 2.0})
SETTINGS = Settings(
    SOURCE, TARGET, "replace", "fixed", {"default_": (0.0, 0.5)}, (0.0, 0.25), 256, {"long": 2.0}
)
GROUPS = {  # of the tiny pipeline, whose levels have 16 and 8 tokens a side
    "down-16": ["down_blocks.0"], "down-8": ["down_blocks.1"], "mid-8": ["mid_block"],
    "up-8": ["up_blocks.0"], "up-16": ["up_blocks.1"], "16": ["down_blocks.0", "up_blocks.1"],
    "8": ["down_blocks.1", "mid_block", "up_blocks.0"],
}  # fmt: skip
RANGES = [(0, STEPS), (0, 1), (1, 3)]
TOLERANCE = 1e-8  # doubles; as the engine's own equivalence with formed maps


class Recorder(Controller):
    """Keeps every cross-attention map of every step, by layer."""

    def __init__(self, settings: Settings, tokenizer, steps: int) -> None:
        super().__init__(settings, tokenizer, steps)
        self.seen: list[dict[str, Tensor]] = [{} for _ in range(steps + 1)]


class RecordingProcessor(NaiveProcessor):
    """Hands the edited maps (source, target) of one layer to the recorder."""

    def __init__(self, recorder: Recorder, layer: str) -> None:
        def controlled(maps: Tensor, is_cross: bool) -> Tensor:
            edited = recorder(maps, is_cross)
            if is_cross:
                recorder.seen[recorder.step][layer] = edited
            return edited

        super().__init__(controlled)  # type: ignore[arg-type]


def formed(
    model: StableDiffusion, guidance: float, monkeypatch: pytest.MonkeyPatch
) -> tuple[Tensor, Recorder]:
    """Return final latents (2, ...) and the recorder of the naive engine."""
    recorders: list[Recorder] = []
    layers: Iterator[str] = iter(model.pipeline.unet.attn_processors)

    def controller(settings: Settings, tokenizer, steps: int) -> Recorder:
        recorders.append(Recorder(settings, tokenizer, steps))
        return recorders[-1]

    monkeypatch.setattr("tests.p2p.naive.Controller", controller)
    monkeypatch.setattr("tests.p2p.naive.NaiveProcessor", lambda c: RecordingProcessor(c, next(layers)))
    latents, _ = naive_latents(model.pipeline, SETTINGS, 0, STEPS, guidance)
    return latents, recorders[0]


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("max_batch", [2, 64])  # with 2, source and edit are denoised in calls of their own
def test_heat_maps_equal_those_of_formed_probabilities(
    tiny_model: StableDiffusion, guidance: float, max_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = Sampling(STEPS, guidance, max_batch=max_batch)
    result = heat_maps(
        tiny_model, SOURCE, WORDS, (TARGET, METHOD), sampling=sampling, layers=list(GROUPS), steps=RANGES
    )
    _, recorder = formed(tiny_model, guidance, monkeypatch)
    assert result.source.words == ("cat", "a long bench", "a")
    assert result.edited is not None
    assert result.edited.words == ("chinchilla", "a long bench", "a")
    for row, heat in enumerate((result.source, result.edited)):
        assert set(heat.maps) == {(name, steps) for name in GROUPS for steps in RANGES}
        for (name, (start, end)), maps in heat.maps.items():
            side = int(name.split("-")[-1])
            assert maps.shape == (3, side, side)
            for word, ours in zip(heat.words, maps, strict=True):
                tokens = [t for part in word.split(" ") for t in recorder.tokens(heat.prompt, part)]
                if word == "a long bench":  # the phrase, not every "a"
                    tokens = [t for t in tokens if t > recorder.tokens(heat.prompt, "on")[0]]
                expected = torch.stack(
                    [
                        probabilities[row, :, :, tokens].sum(-1).mean(0)
                        for step in range(start, end)
                        for layer, probabilities in recorder.seen[step].items()
                        if layer.startswith(tuple(GROUPS[name]))
                    ]
                ).mean(0)
                np.testing.assert_allclose(ours.ravel(), expected.numpy(), rtol=0, atol=TOLERANCE)


def test_injection_and_weights_show_in_the_maps(tiny_model: StableDiffusion) -> None:
    method = PromptToPrompt(tau=0, weights={"long": 3.0})
    target = SOURCE.replace("cat", "dog")
    result = heat_maps(tiny_model, SOURCE, ["on", "long"], (target, method), sampling=Sampling(STEPS, 2.0))
    assert result.edited is not None
    for key, maps in result.source.maps.items():
        np.testing.assert_allclose(result.edited.maps[key], maps * [[[1]], [[3]]], atol=TOLERANCE)
    free = heat_maps(tiny_model, SOURCE, ["on"], (target, FixedSeed()), sampling=Sampling(STEPS, 2.0))
    assert free.edited is not None
    assert all(abs(free.edited.maps[key] - free.source.maps[key]).max() > 1e-3 for key in free.source.maps)


@pytest.mark.parametrize("blend_words", [None, ("cat", "dog")])
def test_the_images_are_those_of_an_edit_without_maps(
    tiny_model: StableDiffusion, blend_words: tuple[str, str] | None
) -> None:
    sampling, target = Sampling(STEPS, 2.0), SOURCE.replace("cat", "dog")
    method, weights = replace(METHOD, weights=2.0), {"long": 1.0}
    result = heat_maps(
        tiny_model, SOURCE, ["cat"], (target, method), sampling=sampling, seed=3, weights=weights,
        blend_words=blend_words, layers=["8"], steps=[(1, 2)],
    )  # fmt: skip
    request = EditRequest(SOURCE, target, weights, blend_words)
    trajectory = method.trajectory(request, tiny_model.tokenizers, STEPS)
    [plain] = generate(tiny_model, [Group(SOURCE, 3, (trajectory,))], sampling)
    assert result.edited is not None
    torch.testing.assert_close(result.source.image, plain.source, rtol=0, atol=0)
    torch.testing.assert_close(result.edited.image, plain.images[0], rtol=0, atol=0)


def test_without_an_edit_only_the_source_is_made(tiny_model: StableDiffusion) -> None:
    rows: list[int] = []
    predict = tiny_model.predict

    class Counted(StableDiffusion):
        def predict(self, latents, *rest):  # type: ignore[no-untyped-def]
            rows.append(len(latents))
            return predict(latents, *rest)

    model = Counted(tiny_model.pipeline, tiny_model.self_max_side, tiny_model.blend_side)
    result = heat_maps(model, SOURCE, ["cat"], sampling=Sampling(STEPS, 1.0))
    assert result.edited is None
    assert rows == [1] * STEPS
    assert set(result.source.maps) == {("16", (0, STEPS)), ("8", (0, STEPS))}


def test_only_the_asked_for_columns_layers_and_steps_are_formed(
    tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    formed: list[tuple[str, int]] = []

    def spied(attention, injection):  # type: ignore[no-untyped-def]
        output = inject_cross(attention, injection)
        formed.extend(
            (name, maps.shape[2]) for name, maps in injection.maps.items() if name == attention.layer
        )
        return output

    monkeypatch.setattr("p2p.attention.injection.inject_cross", spied)
    heat_maps(
        tiny_model, SOURCE, ["cat", "bench"], sampling=Sampling(STEPS, 2.0), layers=["mid-8"], steps=[(2, 3)]
    )
    [(layer, columns)] = formed  # one layer at one step
    assert layer.startswith("mid_block")
    assert columns == 4  # two words of the source, and of the branch that is the source itself


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"words": ["horse"]},
            "words: 'horse' given, allowed are words of 'a cat on a long bench' or 'a dog",
        ),
        ({"words": []}, "words: none given"),
        ({"layers": ["32"]}, "no cross-attention layer is in '32', allowed are 16, down-16, 8, down-8"),
        ({"layers": []}, "layers: none given"),
        ({"steps": [(2, 2)]}, r"steps: \(2, 2\) is no range of steps, allowed is 0 <= start < end <= 4"),
        ({"steps": [(0, 5)]}, r"steps: \(0, 5\) is no range"),
        ({"steps": []}, "steps: none given"),
        ({"edit": ("a dog", SDEdit(0.5))}, "edit: sdedit starts from an image"),
        (
            {"edit": ("a dog on a bench", PromptToPrompt(substruct_words=("a", "a")))},
            "given without blend_words",
        ),
    ],
)
def test_what_cannot_be_asked_for(tiny_model: StableDiffusion, asked: dict, message: str) -> None:
    settings = {"words": ["cat"], "edit": ("a dog on a bench", FixedSeed()), **asked}
    with pytest.raises(ValueError, match=message):
        heat_maps(tiny_model, SOURCE, sampling=Sampling(STEPS, 1.0), **settings)
