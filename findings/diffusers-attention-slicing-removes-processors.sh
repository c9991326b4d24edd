#!/usr/bin/env bash
# Switching attention slicing on or off removes the attention processors that were installed.
#
# Package: diffusers 0.42.1.
# Guess: `enable_attention_slicing()` saves memory and says nothing about which processors run; a processor that
#   was installed with `set_attn_processor` stays, or the call refuses.
# Found: slicing is itself a processor. `enable_attention_slicing()` and `disable_attention_slicing()` both replace
#   every processor of the UNet, the second one by the default processor even where slicing was never on; so does
#   `fuse_qkv_projections()`. No error, no warning, and the picture is that of a pipeline without the processors.
#   `enable_freeu()` leaves them alone.
# Matters: Prompt-to-Prompt, MasaCtrl and Plug-and-Play are attention processors. A memory switch thrown after they
#   are installed turns the edit off: the result is the plain picture of the target prompt.
# Source: `Attention.set_attention_slice` in diffusers/models/attention_processor.py, `fuse_qkv_projections` in
#   diffusers/models/unets/unet_2d_condition.py.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile \
    diffusers==0.42.1 transformers==5.23.0 torch==2.14.1 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0


class Without:
    """Attention whose output is zero: an edit that nobody can overlook."""

    calls = 0

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        Without.calls += 1
        return 0 * AttnProcessor2_0()(attn, hidden_states, encoder_hidden_states, attention_mask)


def pipeline():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=32,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=8)
    made = StableDiffusionPipeline(
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def latents(pipe):
    Without.calls = 0
    text = torch.randn((1, 77, 32), generator=torch.Generator().manual_seed(1))
    result = pipe(
        prompt_embeds=text,
        negative_prompt_embeds=0 * text,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(2),
        output_type="latent",
    )
    return result.images


plain = latents(pipeline())
found = {}
for switch in (None, "enable_freeu", "enable_attention_slicing", "disable_attention_slicing", "fuse_qkv_projections"):
    pipe = pipeline()
    pipe.unet.set_attn_processor(Without())
    if switch == "enable_freeu":
        pipe.enable_freeu(s1=1.0, s2=1.0, b1=1.0, b2=1.0)
    elif switch:
        getattr(pipe, switch)()
    distance = round(float((latents(pipe) - plain).abs().max()), 5)
    found[switch] = Without.calls
    print(f"{switch}: {Without.calls} calls of the processor, {distance} from the picture without it")
    assert (distance < 1e-4) == (Without.calls == 0), switch
assert found[None] > 0 and found["enable_freeu"] == found[None]
for switch in ("enable_attention_slicing", "disable_attention_slicing", "fuse_qkv_projections"):
    assert found[switch] == 0, f"{switch} keeps the installed processors now"
PYTHON
