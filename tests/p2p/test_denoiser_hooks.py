"""What diffusers adds to a denoiser or a pipeline: refused where edits would silently be others."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMInverseScheduler,
    FluxPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionDiffEditPipeline,
)
from diffusers.hooks import (
    FirstBlockCacheConfig,
    HookRegistry,
    LayerSkipConfig,
    MagCacheConfig,
    ModelHook,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
    apply_first_block_cache,
    apply_layer_skip,
)

from p2p import FixedSeed, Flux, ModelSpec, SDEdit, StableDiffusion, edit
from tests.p2p.families.test_flux import tiny_pipeline

STEPS = 3
EVERY = (0, 1001)
CACHES: dict[str, Callable[[Any], Any]] = {
    "mag": lambda net: net.enable_cache(
        MagCacheConfig(threshold=1.0, mag_ratios=torch.ones(STEPS), num_inference_steps=STEPS)
    ),
    "broadcast": lambda net: net.enable_cache(
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=EVERY,
            current_timestep_callback=lambda: 500,
        )
    ),
    "first block": lambda net: apply_first_block_cache(net, FirstBlockCacheConfig(threshold=0.5)),
    "taylor": lambda net: net.enable_cache(TaylorSeerCacheConfig()),
    "skipped": lambda net: apply_layer_skip(net, LayerSkipConfig(indices=[1], fqn="transformer_blocks")),
}
KEPT: dict[str, Callable[[Any], Any]] = {
    "casting": lambda net: net.enable_layerwise_casting(
        storage_dtype=torch.float32, compute_dtype=torch.float32
    ),
    "offloading": lambda net: net.enable_group_offload(
        onload_device=torch.device("cpu"), offload_type="leaf_level"
    ),
}


@pytest.fixture
def flux() -> FluxPipeline:
    return tiny_pipeline().to(torch.float32)


def edited(pipeline: FluxPipeline) -> Any:
    methods = [("a dog on a bench", method) for method in (FixedSeed(), SDEdit(0.7))]
    return edit(Flux(pipeline, 8, 8, 32, 32), "a cat on a bench", methods, num_inference_steps=STEPS)


@pytest.mark.parametrize("name", list(CACHES))
def test_a_cache_of_steps_is_refused_before_a_step(name: str, flux: FluxPipeline) -> None:
    """Some of them would change the pictures of every method without a word."""
    calls: list[Any] = []
    CACHES[name](flux.transformer)
    flux.transformer.register_forward_pre_hook(lambda *given: calls.append(given))
    with pytest.raises(ValueError, match=r"denoiser: has diffusers' hook .* allowed is a denoiser without"):
        edited(flux)
    assert not calls


def test_after_the_cache_is_switched_off_images_are_as_before(flux: FluxPipeline) -> None:
    before = edited(flux)
    CACHES["mag"](flux.transformer)
    flux.transformer.disable_cache()
    torch.testing.assert_close(edited(flux).images, before.images, rtol=0, atol=0)


@pytest.mark.parametrize("name", list(KEPT))
def test_hooks_that_leave_calls_alone_leave_images_alone(name: str, flux: FluxPipeline) -> None:
    before = edited(flux)
    KEPT[name](flux.transformer)
    torch.testing.assert_close(edited(flux).images, before.images, rtol=0, atol=0)


def test_a_hook_that_nobody_knows_is_refused(tiny_model: StableDiffusion) -> None:
    registry = HookRegistry.check_if_exists_or_initialize(tiny_model.denoiser.mid_block)
    registry.register_hook(ModelHook(), "of_tomorrow")
    try:
        with pytest.raises(ValueError, match="'of_tomorrow'"):
            edit(tiny_model, "a cat", [("a dog", FixedSeed())], num_inference_steps=1)
    finally:
        registry.remove_hook("of_tomorrow", recurse=False)


@pytest.mark.parametrize("module", ["DeepCache.extension.deepcache", "cache_dit.caching.cache_adapters"])
def test_a_step_cache_of_another_package_is_refused(
    module: str, tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both put a forward of their own in the network's place, and changed the pictures of baselines."""
    own = tiny_model.denoiser.forward

    def forward(*given: Any, **named: Any) -> Any:
        return own(*given, **named)

    monkeypatch.setattr(tiny_model.denoiser, "forward", forward)
    edit(tiny_model, "a cat", [("a dog", FixedSeed())], num_inference_steps=1)
    forward.__module__ = module
    with pytest.raises(ValueError, match=f"denoiser: has a cache of steps, of {module.split('.')[0]}"):
        edit(tiny_model, "a cat", [("a dog", FixedSeed())], num_inference_steps=1)


def test_merged_tokens_are_refused(tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """tomesd (0.1.3) leaves this dictionary on the UNet and on each block that it changed."""
    monkeypatch.setattr(tiny_model.denoiser, "_tome_info", {"args": {"ratio": 0.5}}, raising=False)
    with pytest.raises(ValueError, match=r"denoiser: merges tokens \(tomesd\)"):
        edit(tiny_model, "a cat", [("a dog", FixedSeed())], num_inference_steps=1)


def test_a_control_net_that_nothing_would_ask_is_refused(tiny_model: StableDiffusion, tmp_path: Path) -> None:
    parts = tiny_model.pipeline.components
    net = ControlNetModel.from_unet(tiny_model.denoiser)
    pipeline = StableDiffusionControlNetPipeline(**parts, controlnet=net, requires_safety_checker=False)
    told = r"has the part 'controlnet', which no edit would ask"
    with pytest.raises(ValueError, match=f"pipeline: {told}"):
        StableDiffusion(pipeline, 16, 16)
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=told):
        ModelSpec("folder", str(tmp_path), 16, 16).check()


def test_parts_that_no_text_to_image_asks_are_no_matter(tiny_model: StableDiffusion, tmp_path: Path) -> None:
    """DiffEdit's second scheduler, say: the class of a folder may be another one of diffusers'."""
    parts = tiny_model.pipeline.components
    inverse = DDIMInverseScheduler.from_config(tiny_model.pipeline.scheduler.config)
    parts = {name: part for name, part in parts.items() if name != "image_encoder"}
    pipeline = StableDiffusionDiffEditPipeline(
        **parts, inverse_scheduler=inverse, requires_safety_checker=False
    )
    pipeline.save_pretrained(tmp_path)
    loaded = ModelSpec("folder", str(tmp_path), 16, 16, device="cpu").load()
    shares = [one.state_dict()["conv_out.bias"] for one in (loaded.denoiser, tiny_model.denoiser)]
    torch.testing.assert_close(*shares, rtol=0, atol=1e-7, check_dtype=False)  # one in double precision


class Steered(StableDiffusion):
    """A family that asks a part of its own."""

    own_parts: ClassVar[Sequence[str]] = ("controlnet",)


def test_a_family_names_parts_of_its_own(tiny_model: StableDiffusion, tmp_path: Path) -> None:
    net = ControlNetModel.from_unet(tiny_model.denoiser)
    pipeline = StableDiffusionControlNetPipeline(
        **tiny_model.pipeline.components, controlnet=net, requires_safety_checker=False
    )
    assert Steered(pipeline, 16, 16).pipeline.controlnet is net
    pipeline.save_pretrained(tmp_path)
    ModelSpec("folder", str(tmp_path), 16, 16, pipeline=f"{__name__}.Steered").check()
