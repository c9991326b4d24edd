"""The engine on a GPU that is not there: no tensor is on the wrong device, and no step waits for it."""

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from p2p import (
    DDIM,
    Direct,
    EditFriendly,
    EditRequest,
    FireFlow,
    FixedSeed,
    Group,
    Inversion,
    MasaCtrl,
    Model,
    NegativePrompt,
    NoiseShifted,
    NullText,
    PlugAndPlay,
    Projections,
    PromptToPrompt,
    Proximal,
    RFInversion,
    Sampling,
    SDEdit,
    StableDiffusion,
    Virtual,
)
from p2p.engine import generate, source_paths, tree_latents
from p2p.prepared import Mixes
from tests.p2p.inversion.flow_models import tiny_flow_model
from tests.p2p.made_up_device import MadeUpDevice, Waits

SOURCE, SWAP, ADD = "a cat on a bench", "a dog on a bench", "a cat with a hat on a bench"
GUIDANCE = 3.0
SLIPS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x[0, 0].item(),
    "bool": lambda x: bool(x.isfinite().all()),
    "tolist": lambda x: x[0].tolist(),
    "numpy": lambda x: x.cpu().numpy(),
    "mask": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "indexed by a list": lambda x: x[[0, 1]],
    "indexed by the CPU's indices": lambda x: x[torch.tensor([0, 1])],
    "made from a list": lambda x: torch.tensor([0, 1], device=x.device),
    "a row of the CPU's": lambda x: x.__setitem__(0, torch.zeros(4)),
    "an index of the CPU's tensor": lambda x: torch.ones(3)[
        torch.ones((), dtype=torch.int64, device=x.device)
    ],
}
if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 15):  # later ones make the number where it is put
    SLIPS["a number put at indices"] = lambda x: x.__setitem__(
        torch.ones(1, dtype=torch.int64, device=x.device), 0
    )
PLAIN: dict[str, Callable[[Tensor], object]] = {
    "arithmetic with the CPU's number": lambda x: x * torch.tensor(2.0),
    "the CPU's own values": lambda x: (torch.arange(4) == 2).nonzero().item(),
    "a row by its number": lambda x: x.__setitem__(0, x[1]),
    "filled there": lambda x: torch.full((), 3.0, device=x.device),
    "gathered": lambda x: x[torch.zeros(2, dtype=torch.int64, device=x.device)],
    "its metadata": lambda x: (len(x), x.dtype, x.device),
}
MISPLACED: dict[str, Callable[[Tensor], object]] = {
    "sum": lambda x: x + torch.ones(3, 4),
    "product": lambda x: torch.einsum("ij,kj->ik", x, torch.ones(2, 4)),
    "joined": lambda x: torch.stack([x, torch.ones(3, 4)]),
    "index": lambda x: x.index_copy(0, torch.tensor([0]), x[:1]),
    "the CPU's rows by indices there": lambda x: torch.ones(3, 4)[
        torch.ones(2, dtype=torch.int64, device=x.device)
    ],
}


@pytest.fixture(scope="module")
def pipeline(tiny_model: StableDiffusion) -> StableDiffusionPipeline:
    """The tiny pipeline with a UNet of one level, which is enough of one: fake tensors are slow."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D",),
        block_out_channels=(8,),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=32,
        norm_num_groups=4,
    )
    own = tiny_model.pipeline
    parts = {name: copy.deepcopy(getattr(own, name)).float() for name in ("vae", "text_encoder")}
    parts |= {name: part for name, part in own.components.items() if name not in (*parts, "unet")}
    return StableDiffusionPipeline(unet=unet, **parts, requires_safety_checker=False)


def on_device(pipeline: Any, device: MadeUpDevice) -> StableDiffusion:
    parts = dict(pipeline.components)
    # The scheduler too: `add_noise` moves its coefficients to the device of the latents, for good.
    parts |= {name: copy.deepcopy(parts[name]) for name in ("unet", "vae", "text_encoder", "scheduler")}
    moved = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    moved.set_progress_bar_config(disable=True)
    model = StableDiffusion(moved, self_max_side=8, blend_side=8)
    device.put(moved, model.denoiser)
    return model


@pytest.fixture(scope="module")
def device() -> MadeUpDevice:
    return MadeUpDevice("cuda")


@pytest.fixture(scope="module")
def model(pipeline: StableDiffusionPipeline, device: MadeUpDevice) -> StableDiffusion:
    return on_device(pipeline, device)


@pytest.fixture
def picture() -> Tensor:
    return torch.linspace(0, 1, 3 * 16 * 16).reshape(3, 16, 16)


def edits(model: Model, methods: Sequence[tuple[str, Any]], steps: int) -> tuple[Any, ...]:
    """Trajectories are made on the CPU, whatever the model's device; all with words to blend by."""
    requests = [(EditRequest(SOURCE, target, blend_words=("cat", "bench")), m) for target, m in methods]
    return tuple(method.trajectory(request, model.tokenizers, steps) for request, method in requests)


def denoise_there(
    model: Model, device: MadeUpDevice, methods: Sequence[tuple[str, Any]], steps: int, max_batch: int = 64
) -> Waits:
    groups = [Group(SOURCE, seed, edits(model, methods, steps)) for seed in (0, 1)]
    with device.running() as waits:
        latents = tree_latents(model, groups, Sampling(steps, GUIDANCE, max_batch=max_batch))
        assert {row.device.type for row in latents.values()} == {device.kind}
    return waits


PROMPT_TO_PROMPT = [
    (SWAP, PromptToPrompt(tau=0.5)),
    (ADD, PromptToPrompt(profile="google-stable", weights={"hat": 2.0})),
    (SWAP, FixedSeed()),
]


def test_no_step_of_a_tree_waits(model: StableDiffusion, device: MadeUpDevice) -> None:
    methods = [*PROMPT_TO_PROMPT, (SWAP, MasaCtrl(0, 0)), (SWAP, PlugAndPlay(1.0, 1.0, 0, 0))]
    methods.append((SWAP, PromptToPrompt(tau=0.2, heads=1, blend_heads="0..1")))
    waits = denoise_there(model, device, methods, steps=3)
    assert waits.calls == 3
    assert waits.between(1, 3) == []
    assert len(waits.all) > 0  # prompts, noise and indices are put there before the first step


def test_no_call_of_a_step_in_parts_waits(model: StableDiffusion, device: MadeUpDevice) -> None:
    waits = denoise_there(model, device, PROMPT_TO_PROMPT[:2], steps=2, max_batch=6)
    assert waits.calls == 4
    assert waits.between(1, 4) == []


def test_sdedit_goes_to_the_cpu_and_back_between_its_loops_alone(
    model: StableDiffusion, device: MadeUpDevice
) -> None:
    group = Group(SOURCE, 0, edits(model, [(SWAP, FixedSeed()), (SWAP, SDEdit(1.0))], 2))
    with device.running() as waits:
        [edited] = generate(model, [group], Sampling(2, GUIDANCE))
    assert edited.images[1].device.type == "cpu"
    assert waits.calls == 4
    assert waits.between(1, 2) == []
    assert waits.between(3, 4) == []
    assert any(wait.calls == 2 and "from cuda to cpu" in str(wait) for wait in waits.all)  # the images


def invert_there(
    model: Model, device: MadeUpDevice, inversion: Inversion, picture: Tensor, steps: int
) -> tuple[Waits, Waits]:
    """Return what waits while an image is inverted, and while it is edited."""
    methods = [(SWAP, PromptToPrompt(tau=0.0))]
    group = Group(SOURCE, 0, edits(model, methods, steps), lambda: picture, inversion)
    sampling = Sampling(steps, GUIDANCE)
    with device.running() as inverting:
        paths = source_paths(model, [group], sampling)
    with device.running() as editing:
        tree_latents(model, [group], sampling, paths=paths)
    return inverting, editing


@pytest.mark.parametrize(
    "inversion",
    [
        *(Direct(), EditFriendly(skip=0.0), Proximal(), NoiseShifted(0.0)),
        *(pytest.param(one, marks=pytest.mark.slow) for one in (DDIM(), NegativePrompt())),
    ],
    ids=lambda inversion: inversion.label,
)
def test_no_step_of_an_inversion_waits(
    model: StableDiffusion, device: MadeUpDevice, picture: Tensor, inversion: Inversion
) -> None:
    for waits in invert_there(model, device, inversion, picture, steps=2):
        assert waits.calls >= 2
        assert waits.between(1, waits.calls) == []


def test_no_virtual_step_waits(model: StableDiffusion, device: MadeUpDevice, picture: Tensor) -> None:
    inverting, editing = invert_there(model, device, Virtual(), picture, steps=2)
    assert inverting.calls == 0
    assert editing.calls == 2
    assert editing.between(1, 2) == []


def test_null_text_waits_for_its_losses_alone(pipeline: StableDiffusionPipeline, picture: Tensor) -> None:
    # On a made-up GPU gradients ask for a driver; on torch's "meta" device they do not.
    device, steps = MadeUpDevice("meta"), 2
    model = on_device(pipeline, device)
    inverting, editing = invert_there(model, device, NullText(inner_steps=1), picture, steps)
    assert inverting.calls == 4 * steps  # DDIM's, then text, inner step and the step itself
    assert inverting.between(1, steps) == []
    optimising = inverting.between(steps + 1, inverting.calls)
    assert [place.split(":")[0] for place in optimising] == ["p2p/inversion/null_text.py"] * steps
    assert editing.between(1, editing.calls) == []


@pytest.mark.parametrize(
    "family",
    [
        *("flux", "z_image"),
        *(pytest.param(family, marks=pytest.mark.slow) for family in ("sd3", "qwen_image", "flux2_klein")),
    ],
)
def test_no_step_of_joint_attention_waits(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device = MadeUpDevice("cuda")
    model = tiny_flow_model(family, torch.float32)
    device.put(model.pipeline, model.denoiser)
    if (
        family == "qwen_image"
    ):  # counts its text's tokens there, which has no values; a lone prompt's are real
        monkeypatch.setattr(model.pipeline, "_extract_masked_hidden", lambda states, mask: states.unbind())
    if family == "z_image":  # takes its text's tokens by a mask, once for each prompt

        def encoded(prompts: list[str], device: torch.device, *_: Any, **__: Any) -> Any:
            return [torch.zeros(13, 16, device=device)], []

        monkeypatch.setattr(model.pipeline, "encode_prompt", encoded)
    chosen = PromptToPrompt(
        tau=0, heads=1, blend_heads=0, value_replace_steps=1, weights={"dog": 2.0}, weights_on="scores"
    )
    shared = Projections(1.0, share=["values", "text_values"], heads=0)
    methods = [*PROMPT_TO_PROMPT[:2], (SWAP, Projections(1.0)), (SWAP, chosen), (SWAP, shared)]
    waits = denoise_there(model, device, methods, steps=2)
    assert waits.calls == 2
    # Their texts' lengths, their rotary tables.
    theirs = tuple(
        f"diffusers/models/transformers/transformer_{name}.py" for name in ("qwenimage", "z_image")
    )
    assert [place for place in waits.between(1, 2) if not place.startswith(theirs)] == []
    assert len(waits.between(1, 2)) == (3 if family in ("qwen_image", "z_image") else 0)


@pytest.mark.parametrize(
    ("family", "inversion"),
    [
        ("sd3", RFInversion(eta_stop=1.0)),
        pytest.param("flux", FireFlow(keep_states=True), marks=pytest.mark.slow),
    ],
)
def test_no_step_along_a_flow_waits(family: str, inversion: Inversion) -> None:
    device = MadeUpDevice("cuda")
    model = tiny_flow_model(family, torch.float32)
    device.put(model.pipeline, model.denoiser)
    picture = torch.linspace(0, 1, 3 * 32 * 32).reshape(3, 32, 32)
    for waits in invert_there(model, device, inversion, picture, steps=2):
        assert waits.calls >= 2
        assert waits.between(1, waits.calls) == []


@pytest.mark.parametrize("scheduler", [DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler])
def test_of_other_schedulers_only_draws_on_the_cpu_wait(
    model: StableDiffusion, device: MadeUpDevice, monkeypatch: pytest.MonkeyPatch, scheduler: Any
) -> None:
    own = scheduler.from_config(model.pipeline.scheduler.config)
    monkeypatch.setattr(model.pipeline, "scheduler", own)
    waits = denoise_there(model, device, PROMPT_TO_PROMPT[2:], steps=2)
    draws = [place for place in waits.between(1, 2) if "diffusers/utils/torch_utils.py" in place]
    assert waits.between(1, 2) == draws
    assert len(draws) == (scheduler is EulerAncestralDiscreteScheduler)  # all rows go there at once


@pytest.fixture(scope="module")
def toy() -> MadeUpDevice:
    return MadeUpDevice("cuda")


@pytest.mark.parametrize("slip", SLIPS.values(), ids=SLIPS)
def test_what_waits_is_noted_where_it_stands(toy: MadeUpDevice, slip: Callable[[Tensor], object]) -> None:
    with toy.running() as waits:
        x = torch.zeros(3, 4, device="cuda")
        with suppress(DynamicOutputShapeException):  # torch gives no shape to what depends on values
            slip(x)
    assert waits.all
    assert all(wait.place.startswith("tests/p2p/test_devices.py:") for wait in waits.all)


@pytest.mark.parametrize("plain", PLAIN.values(), ids=PLAIN)
def test_what_does_not_wait_is_not_noted(toy: MadeUpDevice, plain: Callable[[Tensor], object]) -> None:
    with toy.running() as waits:
        plain(torch.zeros(3, 4, device="cuda"))
    assert waits.all == []


@pytest.mark.parametrize("misplaced", MISPLACED.values(), ids=MISPLACED)
def test_two_devices_in_one_operation_are_an_error(
    toy: MadeUpDevice, misplaced: Callable[[Tensor], object]
) -> None:
    with toy.running(), pytest.raises(RuntimeError, match="same device"):
        misplaced(torch.zeros(3, 4, device="cuda"))


def test_a_tensor_left_on_the_cpu_is_found(
    model: StableDiffusion, device: MadeUpDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Mixes.of

    def left(levels: Any, model: Any) -> Mixes:
        mixes = made(levels, model)
        return replace(mixes, own_share=torch.zeros(mixes.own_share.shape))

    monkeypatch.setattr(Mixes, "of", left)
    with pytest.raises(RuntimeError, match="same device"):
        denoise_there(model, device, PROMPT_TO_PROMPT[1:2], steps=2)


def test_a_value_read_in_a_step_is_found(
    model: StableDiffusion, device: MadeUpDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = StableDiffusion.guide

    def reading(self: Model, uncond: Tensor, text: Tensor, scale: float, rescale: float) -> Tensor:
        return guide(self, uncond, text, text.max().item(), rescale)

    monkeypatch.setattr(StableDiffusion, "guide", reading)
    waits = denoise_there(model, device, PROMPT_TO_PROMPT[2:], steps=2)
    [place] = waits.between(1, 2)
    assert place.startswith("tests/p2p/test_devices.py:")
    assert place.endswith("aten._local_scalar_dense.default reads values")


def test_diffusers_own_call_waits_in_every_step(model: StableDiffusion, device: MadeUpDevice) -> None:
    """Its timesteps are on the device and DDIM's coefficients are not: each step reads the timestep back."""
    with device.running() as waits:
        noise = torch.randn(1, 4, 8, 8, device="cuda")
        model.pipeline(SOURCE, num_inference_steps=3, latents=noise, output_type="latent")
    places = waits.between(1, 2)
    assert {place.split(":")[0] for place in places} == {"diffusers/schedulers/scheduling_ddim.py"}
    assert places == waits.between(2, 3)
