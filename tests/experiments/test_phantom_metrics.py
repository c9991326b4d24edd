"""What a judge says of edits of phantoms, where it sees what is there; and as it is before any training."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluation.edits import Edits
from evaluation.weights import WeightsUnavailable
from experiments.datasets.phantom_pairs import PhantomPair, phantom_pairs
from experiments.embedded import edit_success
from experiments.embedded.augment import to_float
from experiments.embedded.edit_success import EditSuccess, setting_in, surrounding_in, things_in
from experiments.embedded.judge import Judge
from experiments.embedded.judged_areas import FILLED, JudgedAreas, error_outside
from experiments.embedded.worlds.phantoms.definition import WORLD
from experiments.embedded.worlds.phantoms.layout import Layout
from experiments.embedded.worlds.phantoms.render import labels, render
from experiments.embedded.worlds.phantoms.world import LABELS, MODALITIES, Phantom


class Knowing(Judge):
    """A judge that is told what each picture shows."""

    def __init__(self) -> None:
        super().__init__(WORLD)
        self.known: dict[bytes, tuple[Tensor, int]] = {}

    def _judged(self, images: Tensor) -> tuple[Tensor, Tensor]:
        seen = [self.known[image.numpy().tobytes()] for image in images]
        classes = torch.stack([shown for shown, _ in seen]).long()
        pixels = torch.nn.functional.one_hot(classes, 1 + len(LABELS)).permute(0, 3, 1, 2)
        return 20.0 * pixels, 20.0 * torch.nn.functional.one_hot(
            torch.tensor([modality for _, modality in seen]), len(MODALITIES)
        )

    def picture(self, phantom: Phantom, layout: Layout) -> Tensor:
        """Render a phantom, and learn what it shows."""
        rendering = render(phantom, layout)
        image = to_float(torch.from_numpy(rendering.image)[None])[0]
        shown = torch.from_numpy(labels(phantom, rendering))
        self.known[image.numpy().tobytes()] = shown, MODALITIES.index(phantom.modality)
        return image


class KnowingSuccess(EditSuccess):
    judge = cached_property(lambda self: Knowing())


class KnowingAreas(JudgedAreas):
    judge = cached_property(lambda self: Knowing())


def edits_of(judge: Judge, pairs: Sequence[PhantomPair], made: bool) -> Edits:
    """Edits whose images are the ideal, or (`made` false) the unedited source."""
    assert isinstance(judge, Knowing)
    rng = np.random.default_rng(3)
    layouts = [pair.draw_layout(rng) for pair in pairs]
    both = list(zip(pairs, layouts, strict=True))
    sources = torch.stack([judge.picture(pair.source, layout) for pair, layout in both])
    ideals = torch.stack([judge.picture(pair.target, layout) for pair, layout in both])
    prompts = zip(*((p.source.caption(), p.target.caption()) for p in pairs), strict=True)
    return Edits(ideals if made else sources, sources, torch.arange(len(pairs)), *prompts)


@pytest.mark.parametrize("edit_type", ["swap", "add", "remove", "place", "style"])
def test_ideal_edits_are_seen_and_unedited_sources_are_not(edit_type: str) -> None:
    metric = KnowingSuccess("phantoms")
    pairs = phantom_pairs({edit_type: 12}, seed=5)
    (made,) = metric(edits_of(metric.judge, pairs, made=True)).values()
    (none,) = metric(edits_of(metric.judge, pairs, made=False)).values()
    assert made.reasons == none.reasons == ("",) * 12
    assert made.values.mean() >= 0.9  # a large lesion may hide its kidney altogether
    assert none.values.mean() == 0


def test_sizes_and_contrasts_the_judge_cannot_tell() -> None:
    metric = KnowingSuccess("phantoms")
    (scores,) = metric(edits_of(metric.judge, phantom_pairs({"attribute": 4}, seed=5), made=True)).values()
    assert set(scores.reasons) == {"neither a lesion nor its place nor the modality changes"}


def test_captions_are_read_as_they_are_written() -> None:
    for pair in phantom_pairs(seed=5):
        for phantom in (pair.source, pair.target):
            caption, lesion = phantom.caption(), phantom.lesion
            assert things_in(caption, WORLD) == ([lesion.kind] if lesion else [])
            assert (surrounding_in(caption, WORLD) or "") == (lesion.place if lesion else "")
            assert setting_in(caption, WORLD) == phantom.modality


def test_areas_are_those_of_the_labels_and_an_edit_of_the_lesion_leaves_the_rest() -> None:
    metric = KnowingAreas("phantoms")
    pairs = phantom_pairs({"swap": 4, "remove": 4, "style": 4}, seed=6)
    edits = edits_of(metric.judge, pairs, made=True)
    scores = metric(edits)
    area, share, error = (scores[name].values for name in metric.names)
    assert metric.names[0] == "judge/area_phantoms@1"
    seen = [(metric.judge.known[i.numpy().tobytes()][0]) for i in edits.images]  # type: ignore[attr-defined]
    assert area.tolist() == [int(((shown > 0) & (shown <= 4)).sum()) for shown in seen]
    torch.testing.assert_close(share, area / 64**2)
    assert (area[4:8] == 0).all()
    assert (error[:8] < 1e-5).all()  # the blur reaches a little further in PET
    assert (error[8:] > 1e-3).all()


def test_what_lies_outside_a_thing_is_measured_outside_of_it() -> None:
    source, areas = torch.zeros(3, 3, 64, 64), torch.zeros(3, 64, 64, dtype=torch.bool)
    areas[:, 20:30, 20:30] = True
    areas[2] = True
    images = source.clone()
    images[0, :, 18:32, 18:32] = 1.0  # what the areas are grown by is theirs
    images[1, :, :, 0] = 1.0
    errors, filled = error_outside(images, source, areas)
    torch.testing.assert_close(errors, torch.tensor([0, 64 / (64**2 - 14**2), 0]).double())
    assert filled.tolist() == [False, False, True]


class Filled(JudgedAreas):
    @cached_property
    def judge(self) -> Judge:
        judge = Judge(WORLD).eval()
        torch.nn.init.zeros_(judge.classes[0].weight)
        torch.nn.init.zeros_(judge.classes[0].bias)
        with torch.no_grad():
            judge.classes[0].bias[4:8] = 1.0  # the first label's four places under the shuffle
        return judge


def test_pictures_full_of_lesions_have_an_area_and_no_outside() -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    metric = Filled("phantoms")
    scores = metric(Edits(images, images, torch.arange(2), ("a", "b"), ("a", "b")))
    assert scores["judge/area_phantoms@1"].values.tolist() == [4096, 4096]
    assert scores["judge/mse_outside_phantoms@1"].reasons == (FILLED, FILLED)


def test_an_untrained_judge_gives_a_verdict_on_every_edit() -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 3, 64, 64)
    judge = Judge(WORLD).eval()
    around = judge.surroundings(judge.classes_of_pixels(images))
    assert around.shape == (3, 8)
    assert ((around >= 0) & (around <= 1)).all()


@pytest.mark.parametrize("metric", [EditSuccess, JudgedAreas])
def test_weights_that_are_not_there_and_other_worlds_are_refused_in_one_line(metric: type) -> None:
    with pytest.raises(WeightsUnavailable, match="lacks judge.safetensors"):
        metric("phantoms", folder="experiments/embedded").check()
    with pytest.raises(ValueError, match="world: 'fairies', allowed are scenes, phantoms"):
        metric("fairies")


def test_a_world_of_ones_own_has_columns_and_a_reason_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    own = replace(WORLD, name="my_package.birds", model="birds")
    monkeypatch.setattr(edit_success, "load_world", lambda name: own)
    metric = KnowingSuccess("my_package.birds")
    assert metric.names == ("judge/edit_success_birds@1",)
    (scores,) = metric(edits_of(metric.judge, phantom_pairs({"attribute": 1}, seed=5), made=True)).values()
    assert scores.reasons == ("neither a thing nor what surrounds it nor the setting changes",)


def test_the_first_worlds_columns_keep_their_names() -> None:
    assert EditSuccess().names == ("judge/edit_success@1",)
    assert EditSuccess().name == "judge@1"
    assert JudgedAreas().names[0] == "judge/area@1"
