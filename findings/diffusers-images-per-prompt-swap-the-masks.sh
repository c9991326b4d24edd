#!/usr/bin/env bash
# Two prompts with two images each: the second prompt's first image is made from as many words as the first has.
#
# Package: diffusers 0.42.1 with transformers 5.23.0 (Sana).
# Guess: `pipeline([short, long], num_images_per_prompt=2)` makes the images that each prompt makes alone with the
#   same generators, in the order short, short, long, long.
# Found: the embeddings come in this order, their attention masks in the order short, long, short, long. The first
#   image of the long prompt is exactly the image of its first words, as many as the short prompt has; the second of
#   the short one attends its padding. The first and the last image are right, and so is all with one image per prompt,
#   or with one prompt. By reading, the same lines stand in the pipelines of Hunyuan-DiT, Lumina 2, Kandinsky 3 and
#   PRX; PixArt's repeat both alike.
# Matters: half of the images of a batch of two ignore words or draw from padding, at the right place in the list and
#   with the right look. A mean over images per prompt is wrong for both prompts.
# Source: `SanaPipeline.encode_prompt` in diffusers/pipelines/sana/pipeline_sana.py; for Lumina
#   https://github.com/huggingface/diffusers/issues/13634.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile \
    diffusers==0.42.1 transformers==5.23.0 torch==2.14.1 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import torch
from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler, SanaPipeline, SanaTransformer2DModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Gemma2Config, Gemma2Model, PreTrainedTokenizerFast

words = ["<pad>", "<bos>", "a", "cat", "big", "red", "dog", "in", "the", "snow"]
by_word = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<bos>"))
by_word.pre_tokenizer = pre_tokenizers.Whitespace()
torch.manual_seed(0)
blocks = dict(
    in_channels=3,
    latent_channels=4,
    attention_head_dim=2,
    encoder_block_types=("ResBlock",) * 2,
    decoder_block_types=("ResBlock",) * 2,
    encoder_block_out_channels=(8, 8),
    decoder_block_out_channels=(8, 8),
    encoder_layers_per_block=(1, 1),
    decoder_layers_per_block=(1, 1),
    encoder_qkv_multiscales=((), ()),
    decoder_qkv_multiscales=((), ()),
)
pipeline = SanaPipeline(
    tokenizer=PreTrainedTokenizerFast(
        tokenizer_object=by_word, pad_token="<pad>", bos_token="<bos>", unk_token="<bos>"
    ),
    text_encoder=Gemma2Model(
        Gemma2Config(
            vocab_size=len(words),
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=4,
        )
    ).eval(),
    vae=AutoencoderDC(**blocks),
    transformer=SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=16,
    ),
    scheduler=FlowMatchEulerDiscreteScheduler(),
)
pipeline.set_progress_bar_config(disable=True)
for parameter in pipeline.transformer.parameters():
    torch.nn.init.normal_(parameter, std=0.2)


def latents(prompts, seeds, **options):
    return pipeline(
        prompts,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        height=32,
        width=32,
        num_inference_steps=3,
        guidance_scale=4.5,
        max_sequence_length=16,
        complex_human_instruction=None,
        use_resolution_binning=False,
        output_type="latent",
        **options,
    ).images


def apart(one, other):
    return float((one - other).abs().max())


short, long = "a cat", "a big red dog in the snow"
four = latents([short, long], range(4), num_images_per_prompt=2)
alone = [latents([(short, long)[image // 2]], [image])[0] for image in range(4)]
cut = latents(["a big"], [2])[0]
differences = [apart(one, other) for one, other in zip(four, alone, strict=True)]
print("each image of the batch, and the same prompt and seed alone, differ by", differences)
print("the long prompt's first image and one of its first two words:", apart(four[2], cut))
assert differences[0] < 1e-4 and differences[3] < 1e-4, "the first or the last image has changed"
assert differences[1] > 1e-2 and differences[2] > 1e-1, "the masks are in order now"
assert apart(four[2], cut) < 1e-4, "the long prompt is not cut to two words"
both = latents([short, long], [0, 2])
assert apart(both[0], alone[0]) < 1e-4 and apart(both[1], alone[2]) < 1e-4, "one image per prompt is wrong too"
several = latents([long], [2, 3], num_images_per_prompt=2)
assert apart(several[0], alone[2]) < 1e-4 and apart(several[1], alone[3]) < 1e-4, "one prompt is wrong too"
PYTHON
