"""Other pipelines as methods: what calling them by hand gives, keys that know every argument, errors of one
line.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    LEditsPPPipelineStableDiffusion,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInstructPix2PixPipeline,
)
from PIL import Image
from torch import Tensor

from p2p import (
    EditRequest,
    External,
    FixedSeed,
    Group,
    Pipelines,
    Sampling,
    SDEdit,
    StableDiffusion,
    edit,
    generate,
)
from p2p.engine import derived_seed
from p2p.evaluations import plan_evaluations
from p2p.loading.pipeline_spec import PipelineSpec
from p2p.loading.placeholders import filled
from p2p.trajectory import Trajectory
from tests.tiny_pipelines import NO_CHECKER, save_instruct_pix2pix, save_ledits_pp

pytestmark = pytest.mark.xdist_group("external")

SOURCE, TARGET, COMMAND = "a cat on a bench", "a dog on a bench", "make the cat a dog"
SAMPLING = Sampling(num_inference_steps=6, guidance_scale=5.0)
FOLLOW: dict[str, Any] = {
    "prompt": "{instruction}",
    "image": "{source_image}",
    "num_inference_steps": "{num_inference_steps}",
    "guidance_scale": "{guidance_scale}",
    "image_guidance_scale": 1.5,
}
INVERT: dict[str, Any] = {
    "image": "{source_image}",
    "source_prompt": "{source_prompt}",
    "num_inversion_steps": "{num_inference_steps}",
    "skip": 0.1,
}
GUIDE: dict[str, Any] = {"editing_prompt": ["{target_prompt}"], "edit_threshold": 0.75}


@pytest.fixture(scope="module")
def pix2pix_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_instruct_pix2pix(tiny_folder, tmp_path_factory.mktemp("pix2pix") / "pipeline")


@pytest.fixture(scope="module")
def ledits_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ledits_pp(tiny_folder, tmp_path_factory.mktemp("ledits") / "pipeline")


@pytest.fixture(scope="module")
def follow(pix2pix_folder: Path) -> External:
    return External("StableDiffusionInstructPix2PixPipeline", str(pix2pix_folder), FOLLOW)


@pytest.fixture(scope="module")
def guide(ledits_folder: Path) -> External:
    return External("LEditsPPPipelineStableDiffusion", str(ledits_folder), GUIDE, {"invert": INVERT})


def picture(image: Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


def pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image, np.float32)).permute(2, 0, 1) / 255


def by_instruction(folder: Path, source: Image.Image, generator: torch.Generator) -> Image.Image:
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(folder, **NO_CHECKER)
    numbers = {"num_inference_steps": 6, "guidance_scale": 5.0, "image_guidance_scale": 1.5}
    return pipeline(COMMAND, source, generator=generator, **numbers).images[0]


def by_inversion(folder: Path, source: Image.Image, generator: torch.Generator) -> Image.Image:
    pipeline = LEditsPPPipelineStableDiffusion.from_pretrained(folder, **NO_CHECKER)
    pipeline.invert(source, source_prompt=SOURCE, num_inversion_steps=6, skip=0.1, generator=generator)
    return pipeline(editing_prompt=[TARGET], edit_threshold=0.75, generator=generator).images[0]


def by_noise(folder: Path, source: Image.Image, generator: torch.Generator) -> Image.Image:
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(folder, **NO_CHECKER)
    numbers = {"strength": 0.5, "num_inference_steps": 6, "guidance_scale": 5.0}
    return pipeline(f"a photo, {TARGET}", source, generator=generator, **numbers).images[0]


ByHand = Callable[[Path, Image.Image, torch.Generator], Image.Image]


@pytest.mark.parametrize(
    ("pipeline", "call", "prepare", "by_hand"),
    [
        ("StableDiffusionInstructPix2PixPipeline", FOLLOW, {}, by_instruction),
        pytest.param(
            "LEditsPPPipelineStableDiffusion", GUIDE, {"invert": INVERT}, by_inversion, marks=pytest.mark.slow
        ),
        (
            "StableDiffusionImg2ImgPipeline",  # a third one comes by its arguments alone
            {
                "prompt": "a photo, {target_prompt}",
                "image": "{source_image}",
                "strength": 0.5,
                "num_inference_steps": "{num_inference_steps}",
                "guidance_scale": "{guidance_scale}",
            },
            {},
            by_noise,
        ),
    ],
)
def test_an_edit_is_what_calling_the_pipeline_by_hand_gives(
    pipeline: str,
    call: dict[str, Any],
    prepare: dict[str, Any],
    by_hand: ByHand,
    tiny_model: StableDiffusion,
    tiny_folder: Path,
    pix2pix_folder: Path,
    ledits_folder: Path,
) -> None:
    folders = {by_instruction: pix2pix_folder, by_inversion: ledits_folder, by_noise: tiny_folder}
    folder = folders[by_hand]
    method = External(pipeline, str(folder), call, prepare)
    result = edit(tiny_model, SOURCE, [(TARGET, method)], 3, SAMPLING, instruction=COMMAND)
    generator = torch.Generator().manual_seed(derived_seed(3))
    expected = pixels(by_hand(folder, picture(result.source), generator))
    # The same computation, so bit for bit.
    torch.testing.assert_close(result.images[0], expected, rtol=0, atol=0)
    assert (result.images[0] - result.source).abs().max() > 0.05


def test_a_real_image_is_edited_like_the_same_picture_generated_and_needs_no_inversion(
    tiny_model: StableDiffusion, follow: External
) -> None:
    generated = edit(tiny_model, SOURCE, [(TARGET, follow)], 3, SAMPLING, instruction=COMMAND)
    real = edit(tiny_model, SOURCE, [(TARGET, follow)], 3, SAMPLING, generated.source, instruction=COMMAND)
    assert real.reconstruction is None
    torch.testing.assert_close(real.images[0], generated.images[0], rtol=0, atol=0)
    other = edit(tiny_model, SOURCE, [(TARGET, follow)], 4, SAMPLING, generated.source, instruction=COMMAND)
    assert not torch.equal(other.images[0], real.images[0])


def test_edits_of_the_model_are_untouched_and_all_stand_in_their_order(
    tiny_model: StableDiffusion, follow: External
) -> None:
    edits = [(TARGET, FixedSeed()), (TARGET, SDEdit(0.5))]
    alone = edit(tiny_model, SOURCE, edits, 3, SAMPLING)
    mixed = edit(
        tiny_model, SOURCE, [(TARGET, follow), edits[0], (TARGET, follow), edits[1]], 3, SAMPLING,
        instruction=COMMAND,
    )  # fmt: skip
    torch.testing.assert_close(mixed.source, alone.source, rtol=0, atol=0)
    for image, expected in zip((mixed.images[1], mixed.images[3]), alone.images, strict=True):
        torch.testing.assert_close(image, expected, rtol=0, atol=0)
    torch.testing.assert_close(mixed.images[0], mixed.images[2], rtol=0, atol=0)


def trajectory(method: External, **changes: Any) -> Trajectory:
    request = replace(EditRequest(SOURCE, TARGET, instruction=COMMAND), **changes)
    return method.trajectory(request, (), SAMPLING.num_inference_steps)


def test_keys_know_every_argument_the_weights_and_the_texts(
    tiny_folder: Path, pix2pix_folder: Path, follow: External, guide: External, tmp_path: Path
) -> None:
    other_weights = save_instruct_pix2pix(tiny_folder, tmp_path / "other", seed=2)
    other_sampler = save_instruct_pix2pix(tiny_folder, tmp_path / "sampler")
    config = other_sampler / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace('"beta_end": 0.012', '"beta_end": 0.013'))
    changed = [
        *(replace(follow, call={**FOLLOW, name: value}) for name, value in _changes(FOLLOW)),
        *(replace(guide, prepare={"invert": {**INVERT, name: value}}) for name, value in _changes(INVERT)),
        *(replace(guide, call={**GUIDE, name: value}) for name, value in _changes(GUIDE)),
        replace(follow, call={**FOLLOW, "negative_prompt": "fog"}),
        replace(follow, dtype="float64"),
        *(replace(follow, path=str(path)) for path in (other_weights, other_sampler)),
        follow,
        guide,
    ]
    digests = [trajectory(method).digest() for method in changed]
    digests += [trajectory(follow, instruction="make it night").digest()]
    digests += [trajectory(guide, source_prompt="a bench").digest()]
    assert len(set(digests)) == len(digests)


def _changes(arguments: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return another value for each argument; for a number, one that placeholders would not give."""
    others = {"image": ["{source_image}"], "editing_prompt": ["{target_prompt}", "{source_prompt}"]}
    texts = {"prompt": "please {instruction}", "source_prompt": ""}
    return [(name, {**others, **texts}.get(name, 7)) for name in arguments]


def test_equal_calls_have_equal_keys_wherever_the_weights_lie(
    tiny_folder: Path, follow: External, tmp_path: Path
) -> None:
    copied = save_instruct_pix2pix(tiny_folder, tmp_path / "copy")
    same = [
        replace(follow, path=str(copied)),
        replace(follow, rows_per_step=5),
        replace(follow, call=dict(reversed(FOLLOW.items()))),
    ]
    assert {trajectory(method).digest() for method in same} == {trajectory(follow).digest()}
    whole = [replace(follow, call={**FOLLOW, "image_guidance_scale": value}) for value in (2, 2.0)]
    assert len({trajectory(method).digest() for method in whole}) == 1


def test_texts_that_the_call_does_not_name_do_not_matter(guide: External) -> None:
    # The target prompt stays part of every trajectory's key.
    assert trajectory(guide, instruction="other").digest() == trajectory(guide).digest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pipeline": "ImagicPipeline"}, "pipeline: 'ImagicPipeline' is no pipeline of diffusers"),
        ({"pipeline": "UNet2DModel"}, "pipeline: 'UNet2DModel' is no pipeline of diffusers"),
        ({"pipeline": "DiffusionPipeline"}, "call: DiffusionPipeline has no such method"),
        ({"call": {**FOLLOW, "cfg": 1}}, "call: cfg is no argument of StableDiffusionInstructPix2Pix"),
        ({"call": {**FOLLOW, "generator": 1}}, "call.generator: the run gives it, allowed are prompt"),
        ({"call": {**FOLLOW, "prompt": "{caption}"}}, "call: {caption} is no placeholder, allowed are"),
        ({"call": {**FOLLOW, "prompt": "x {source_image}"}}, "allowed is to stand alone"),
        ({"call": "{instruction}"}, "call: '{instruction}' does not map arguments to values"),
        ({"prepare": {"invert": {}}}, "prepare.invert: StableDiffusionInstructPix2PixPipeline has no such"),
        ({"prepare": {"from_pretrained": {}}}, "prepare.from_pretrained: .* has no such method"),
        ({"prepare": ["invert"]}, "prepare: \\['invert'\\] does not map methods"),
        ({"rows_per_step": 0}, "rows_per_step: 0 is not a number above 0"),
        ({"dtype": "int8"}, "dtype: 'int8' is not one of"),
    ],
)
def test_what_cannot_be_called_is_an_error_of_one_line_at_construction(
    changes: dict[str, Any], message: str, follow: External
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        replace(follow, **changes)
    assert "\n" not in str(error.value)


def test_an_argument_without_a_default_must_be_given(guide: External) -> None:
    with pytest.raises(ValueError, match="prepare.invert: LEditsPPPipelineStableDiffusion also needs image"):
        replace(guide, prepare={"invert": {"skip": 0.1}})


def test_a_pair_without_an_instruction_is_an_error(follow: External, guide: External) -> None:
    with pytest.raises(ValueError, match="instruction: the pair has none"):
        trajectory(follow, instruction="")
    assert trajectory(guide, instruction="").external is not None


def test_texts_are_as_long_as_the_run_and_the_pipeline_allow(
    tiny_model: StableDiffusion, follow: External, short_clip_tokenizer: Any
) -> None:
    request = EditRequest(SOURCE, TARGET, instruction="very " * 30 + "red")
    with pytest.raises(ValueError, match="has 33 tokens, allowed are 16"):
        follow.trajectory(request, (short_clip_tokenizer,), 6)
    long = Group(SOURCE, 0, (trajectory(follow, instruction="very " * 80 + "red"),))
    with pytest.raises(ValueError, match="is too long, allowed are 77 tokens"):
        generate(tiny_model, [long], SAMPLING)


def test_an_image_of_another_size_is_an_error_that_says_so(
    tiny_model: StableDiffusion, tiny_folder: Path
) -> None:
    call = {"prompt": "{target_prompt}", "height": 64, "width": 48, "num_inference_steps": 1}
    method = External("StableDiffusionPipeline", str(tiny_folder), call)
    with pytest.raises(
        ValueError, match="gives an image of 48x64 for a source of 32x32, allowed is"
    ) as error:
        edit(tiny_model, SOURCE, [(TARGET, method)], 0, SAMPLING)
    assert "\n" not in str(error.value)


def test_weights_that_cannot_be_had_are_one_line(follow: External) -> None:
    missing = replace(follow, path="/nowhere").spec
    for get in (missing.fetch, lambda: missing.load("cpu")):
        with pytest.raises(
            OSError, match="^StableDiffusionInstructPix2PixPipeline: no weights at '/now"
        ) as e:
            get()
        assert "\n" not in str(e.value)


def test_a_pipeline_is_loaded_once(
    tiny_model: StableDiffusion, follow: External, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, loads = PipelineSpec.load, []

    def counted(self: PipelineSpec, device: Any) -> Any:
        loads.append(self)
        return load(self, device)

    monkeypatch.setattr(PipelineSpec, "load", counted)
    pipelines = Pipelines()
    pipelines.load([follow.spec])
    groups = [Group(SOURCE, seed, (trajectory(follow), trajectory(follow))) for seed in (0, 1)]
    for group in groups:
        generate(tiny_model, [group], SAMPLING, pipelines=pipelines)
    assert loads == [follow.spec]


def test_the_count_of_unet_evaluations_is_of_the_model_alone(follow: External, guide: External) -> None:
    own = (Trajectory(TARGET, ()),)
    groups = [Group(SOURCE, 0, own), Group(SOURCE, 0, (*own, trajectory(follow), trajectory(guide)))]
    one, both = (plan_evaluations([group], 6, SAMPLING) for group in groups)
    assert one == both == 2 * 2 * 6
    call = trajectory(replace(follow, rows_per_step=3)).external
    assert call is not None
    assert call.evaluations(50) == 150


def test_a_call_goes_without_anything_of_the_models_own() -> None:
    call: Any = object()
    with pytest.raises(ValueError, match="external: another pipeline's image has no injections"):
        Trajectory(TARGET, (), start=3, external=call)
    assert not Trajectory(TARGET, (), external=call).from_noise


def test_braces_of_a_prompt_are_text() -> None:
    values = {"target_prompt": "a {source_image} and {x}", "source_image": 1, "guidance_scale": 7.5}
    given = ["photo of {target_prompt}", "{target_prompt}", {"a": ("{guidance_scale}", None)}]
    assert filled(given, values) == [
        "photo of a {source_image} and {x}", "a {source_image} and {x}", {"a": [7.5, None]},
    ]  # fmt: skip
