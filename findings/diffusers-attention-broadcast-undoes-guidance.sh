#!/usr/bin/env bash
# Pyramid Attention Broadcast gives the negative prompt's pass the positive prompt's attention: no guidance is left.
#
# Package: diffusers 0.42.1 (Qwen-Image).
# Guess: `spatial_attention_block_skip_range=2` computes attention at each second step and reuses it at the next, for
#   the prompt and the negative prompt each by itself, as the pipeline names the two passes (`cache_context`).
# Found: calls are counted, not steps, and one store serves both passes. With 2, each pass of the prompt computes, and
#   each one of the negative prompt takes the attention of the prompt at the same step. In the whole range of timesteps
#   both predictions are equal, bit by bit: `true_cfg_scale` 4 and any negative prompt give what they would without
#   guidance, and nothing of the prompt's pass is saved. It is silent where both prompts have as many tokens, as in
#   pipelines that pad to one length; else an error is raised.
# Matters: a picture "with cache" is not the guided one a little rougher, it is the unguided one over the middle
#   steps. A speed-up and a quality measured so belong to another guidance scale. Pipelines that put both prompts into
#   one batch, and First Block Cache or TaylorSeer, which keep one store per pass, are not concerned.
# Source: `PyramidAttentionBroadcastHook` in diffusers/hooks/pyramid_attention_broadcast.py; beside it
#   `StateManager` in diffusers/hooks/hooks.py, by which other caches tell the passes apart.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile \
    diffusers==0.42.1 transformers==5.23.0 torch==2.14.1 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    PyramidAttentionBroadcastConfig,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)

torch.manual_seed(0)
transformer = QwenImageTransformer2DModel(
    in_channels=16,
    out_channels=4,
    num_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=16,
    axes_dims_rope=(8, 4, 4),
)
for parameter in transformer.parameters():
    torch.nn.init.normal_(parameter, std=0.2)
pipeline = QwenImagePipeline(
    scheduler=FlowMatchEulerDiscreteScheduler(),
    vae=AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
    ),
    text_encoder=None,
    tokenizer=None,
    transformer=transformer,
)
pipeline.set_progress_bar_config(disable=True)
prompt, negative, other_negative = torch.randn(3, 1, 7, 16)
mask = torch.ones(1, 7, dtype=torch.long)
predictions = []
transformer.register_forward_hook(lambda module, arguments, output: predictions.append(output[0].clone()))


def image(negative, scale):
    predictions.clear()
    return pipeline(
        prompt_embeds=prompt,
        prompt_embeds_mask=mask,
        negative_prompt_embeds=negative,
        negative_prompt_embeds_mask=mask,
        true_cfg_scale=scale,
        height=32,
        width=32,
        num_inference_steps=10,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    ).images


def cached(skip, timesteps):
    if transformer.is_cache_enabled:
        transformer.disable_cache()
    transformer.enable_cache(
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=skip,
            spatial_attention_timestep_skip_range=timesteps,
            current_timestep_callback=lambda: pipeline.current_timestep,
        )
    )


def apart(one, other):
    return float((one - other).abs().max())


def gaps():
    """Return how far the two prompts' predictions are apart, by timestep."""
    pairs = zip(predictions[::2], predictions[1::2], strict=True)
    steps = [round(float(step)) for step in pipeline.scheduler.timesteps]
    return dict(zip(steps, (round(apart(*pair), 3) for pair in pairs), strict=True))


unguided = image(negative, 1.0)
guided = image(negative, 4.0)
print("without cache, predictions apart by timestep:", gaps())
assert all(gap > 0.01 for gap in gaps().values()) and apart(guided, unguided) > 0.1
assert apart(guided, image(other_negative, 4.0)) > 0.1, "the negative prompt has no effect without a cache either"

cached(2, (100, 800))
image(negative, 4.0)
print("computed at each second step, timesteps 100 to 800:", gaps())
inside = [gap for step, gap in gaps().items() if 100 < step < 800]
outside = [gap for step, gap in gaps().items() if not 100 < step < 800]
assert len(inside) == 6 and set(inside) == {0.0}, "the passes of the two prompts do not share their attention"
assert all(gap > 0.01 for gap in outside)

cached(2, (-1, 1001))
everywhere = image(negative, 4.0)
print("at all timesteps, guidance 4: from the unguided image", apart(everywhere, unguided))
print("and from the image with guidance 4 and no cache", apart(everywhere, guided))
assert apart(everywhere, unguided) == 0, "guidance with the cache is not the image without guidance"
assert apart(everywhere, image(other_negative, 4.0)) == 0, "the negative prompt has an effect"
PYTHON
