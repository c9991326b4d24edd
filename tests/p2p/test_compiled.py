"""torch.compile of the denoiser: one graph a size and kind of step, the eager run's edits, or one line."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload
from diffusers import PixArtSigmaPipeline, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from torch._dynamo.utils import counters

from p2p import EditRequest, Group, Model, ModelSpec, PromptToPrompt, Sampling, StableDiffusion
from p2p.compiling import check_compiler, compiled
from p2p.engine import tree_latents
from p2p.families.pixart import PixArtSigma
from p2p.families.stable_diffusion_3 import StableDiffusion3
from tests.p2p.families import test_flux, test_flux2, test_pixart, test_qwen_image, test_stable_diffusion_3
from tests.p2p.test_loras import random_lora
from tests.p2p.test_padded_calls import LONGER, METHODS, SOURCE, STEPS, SWAP, groups

pytestmark = pytest.mark.xdist_group("compiled")


@pytest.fixture(autouse=True)
def _no_graphs_yet() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run traced graphs as they are: breaks and recompilations show, and no compiler takes its minutes."""
    monkeypatch.setattr("p2p.compiling.BACKEND", "eager")


def graphs() -> int:
    assert not counters["graph_break"]
    return int(counters["stats"]["unique_graphs"])


def assert_equal(ours: dict[tuple[int, int], Tensor], theirs: dict[tuple[int, int], Tensor]) -> None:
    for branch, latents in theirs.items():
        torch.testing.assert_close(ours[branch], latents, rtol=0, atol=1e-8)


def swept(model: Model, taus: list[float], seed: int) -> list[Group]:
    edits = [
        PromptToPrompt(tau=tau).trajectory(EditRequest(SOURCE, target), model.tokenizers, STEPS)
        for tau in taus
        for target in (SWAP, LONGER)
    ]
    return [Group(SOURCE, seed, tuple(edits))]


@pytest.fixture(scope="module")
def one_level(tiny_model: StableDiffusion) -> StableDiffusion:
    """The tiny pipeline with a UNet of one level, which is traced in half the time."""
    torch.manual_seed(0)
    level = {
        "down_block_types": ("CrossAttnDownBlock2D",),
        "mid_block_type": None,
        "up_block_types": ("CrossAttnUpBlock2D",),
        "block_out_channels": (16,),
    }
    unet = UNet2DConditionModel.from_config({**tiny_model.pipeline.unet.config, **level}).double()
    parts = {**tiny_model.pipeline.components, "unet": unet}
    pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    return StableDiffusion(pipeline, self_max_side=16, blend_side=16)


@pytest.mark.usefixtures("traced")
def test_a_sweep_takes_a_graph_for_each_kind_of_call_and_other_taus_none(one_level: StableDiffusion) -> None:
    model, sampling = replace(one_level, compile=True), Sampling(STEPS, max_batch=4)
    for taus in ([0.0, 0.5, 1.0], [0.1, 0.3, 0.6, 0.8]):
        own = swept(model, taus, seed=len(taus))
        assert_equal(tree_latents(model, own, sampling), tree_latents(one_level, own, sampling))
        # Two states: all plain, some edited as the first call of several, edited with the sources banked.
        assert graphs() <= 5
        found = graphs()
    assert graphs() == found


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("blend", [False, True])
def test_every_kind_of_edit_is_one_graph(calm_model: StableDiffusion, blend: bool) -> None:
    own, model = groups(calm_model, METHODS, blend), replace(calm_model, compile=True)
    for max_batch in (64, 6):
        sampling = Sampling(STEPS, max_batch=max_batch)
        assert_equal(tree_latents(model, own, sampling), tree_latents(calm_model, own, sampling))
    before = graphs()
    tree_latents(model, own, Sampling(STEPS, max_batch=64))
    assert graphs() == before
    assert before <= 20


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    "model",
    [
        lambda: StableDiffusion3(test_stable_diffusion_3.tiny_pipeline(), 8, 8),
        lambda: PixArtSigma(test_pixart.tiny_pipeline(PixArtSigmaPipeline), 8, 8),
        test_flux.tiny_flux,
        test_qwen_image.tiny_qwen,
        test_flux2.short_klein,
    ],
    ids=["sd3", "pixart", "flux", "qwen_image", "flux2_klein"],
)
def test_transformers_are_one_graph_for_each_kind_of_call(model: Callable[[], Model]) -> None:
    plain = model()
    own, traced = swept(plain, [0.2, 0.6], seed=0), replace(plain, compile=True)
    traced.check_compiles()
    ours, theirs = (tree_latents(one, own, Sampling(STEPS, 3.0)) for one in (traced, plain))
    for branch, latents in theirs.items():  # flow matching rounds to single precision
        torch.testing.assert_close(ours[branch], latents, rtol=0, atol=1e-4)
    assert graphs() <= 8


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_a_lora_is_part_of_the_graph(tiny_folder: Path, tmp_path: Path) -> None:
    unet = ModelSpec("tiny", str(tiny_folder), 16, 16, device="cpu").load().denoiser
    lora = {f"unet.{name}": values for name, values in random_lora(unet, ("to_q", "to_k"), 1).items()}
    save_file(lora, tmp_path / "lora.safetensors")
    loras = [{"path": str(tmp_path / "lora.safetensors"), "scale": 0.2}]
    spec = ModelSpec("tiny", str(tiny_folder), 16, 16, device="cpu", dtype="float64", loras=loras)
    plain, sampling = spec.load(), Sampling(STEPS, 3.0)
    own = swept(plain, [0.5], seed=0)
    assert_equal(
        tree_latents(replace(plain, compile=True), own, sampling), tree_latents(plain, own, sampling)
    )
    assert graphs()


@pytest.mark.slow
def test_compiled_code_gives_the_edits_too(calm_model: StableDiffusion) -> None:
    own, model = swept(calm_model, [0.3], seed=0), replace(calm_model, compile=True)
    sampling = Sampling(STEPS, 3.0, max_batch=8)
    ours, theirs = (tree_latents(one, own, sampling) for one in (model, calm_model))
    for branch, latents in theirs.items():
        # Wider than for another batch size: compiled code may round otherwise what is computed in single
        # precision, such as the timestep's embedding.
        torch.testing.assert_close(ours[branch], latents, rtol=0, atol=1e-3)


def test_other_devices_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"compile: is not offered on mps, allowed is model\.compile=false"):
        check_compiler(torch.device("mps"))


class Breaking(nn.Module):
    """A network that cannot be one graph."""

    def forward(self, rows: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return rows


@pytest.mark.usefixtures("traced")
def test_a_denoiser_that_is_not_one_graph_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"^compile: Breaking \(.*\), allowed is model\.compile=false$"):
        compiled(Breaking())(torch.ones(1))


def test_an_offloaded_denoiser_is_one_line() -> None:
    network = nn.Linear(1, 1)
    cpu_offload(network, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"^compile: the denoiser is offloaded.*model\.compile=false$"):
        compiled(network)


def test_it_is_no_part_of_the_key_and_either_true_or_false(tiny_folder: Path) -> None:
    spec = ModelSpec("tiny", str(tiny_folder), 16, 16, device="cpu")
    assert replace(spec, compile=True).identity() == spec.identity()
    with pytest.raises(ValueError, match="compile: 'yes' is not true or false"):
        replace(spec, compile="yes")  # type: ignore[arg-type]
