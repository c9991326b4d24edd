#!/usr/bin/env bash
# Inpainting reads one mask pixel of each 8 x 8, the upper left: lines up to 7 pixels wide do nothing, the rest shifts.
#
# Package: diffusers 0.42.1.
# Guess: a latent is repainted where the mask covers most of its 8 x 8 pixels, or any of them.
# Found: where it covers the upper left pixel of the block, and nowhere else. A white stripe 7 pixels wide between two
#   such pixels leaves the latents as an empty mask does; one pixel column at a multiple of 8 repaints all 8. A mask
#   from column 4 to 59 repaints columns 8 to 63: both of its edges move by 4 pixels to the right.
# Matters: thin masks (a line, hair, text, a segmentation's rim) are ignored without a word. Of all others the upper
#   and left rim keeps the source, up to 7 pixels, and as much beyond the lower and right rim is repainted, so that
#   the background's error is that of the mask. Growing the mask by 7 pixels to the left and upwards, or taking each
#   block's maximum before, covers all that was painted.
# Source: `prepare_mask_latents` in diffusers/pipelines/stable_diffusion/pipeline_stable_diffusion_inpaint.py, which
#   interpolates with torch's default mode; the same line stands in the inpainting of SDXL and SD3.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile \
    diffusers==0.42.1 transformers==5.23.0 torch==2.14.1 numpy==2.4.6 pillow==13.0.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import numpy
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
from PIL import Image

torch.manual_seed(0)
pipeline = StableDiffusionInpaintPipeline(
    vae=AutoencoderKL(
        block_out_channels=(8,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8,
    ),
    text_encoder=None,
    tokenizer=None,
    unet=UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=32,
        norm_num_groups=8,
    ),
    scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
    safety_checker=None,
    feature_extractor=None,
    requires_safety_checker=False,
)
pipeline.set_progress_bar_config(disable=True)
assert pipeline.vae_scale_factor == 8
picture = Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=numpy.uint8))
prompt_embeds = torch.randn(1, 8, 32)


def latents(first, last):
    """Return the latents with columns `first` to `last` of the mask white."""
    mask = numpy.zeros((64, 64), dtype=numpy.uint8)
    mask[:, first : last + 1] = 255
    return pipeline(
        prompt_embeds=prompt_embeds,
        image=picture,
        mask_image=Image.fromarray(mask),
        height=64,
        width=64,
        guidance_scale=1.0,
        num_inference_steps=3,
        strength=1.0,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    ).images[0]


source = latents(64, 63)
found = {}
for stripe in ((9, 15), (8, 8), (4, 59)):
    changed = (latents(*stripe) - source).abs().amax(dim=(0, 1)) > 1e-4
    found[stripe] = [(8 * column, 8 * column + 7) for column in range(8) if changed[column]]
    print("white columns", stripe, "repaint", found[stripe])
assert found[9, 15] == [], "a stripe of 7 columns is repainted"
assert found[8, 8] == [(8, 15)], "one column does not repaint its block"
assert found[4, 59] == [(8 * column, 8 * column + 7) for column in range(1, 8)], "the edges do not shift"
PYTHON
