#!/usr/bin/env bash
# Every caption that is too long for CLIP has one and the same CLIPScore in torchmetrics, whatever it says.
#
# Package: torchmetrics 1.9.0 (with transformers 4.57.1; with 5.23.0 CLIPScore raises).
# Guess: a caption of over 77 tokens is cut, as the warning says, and scored by its first 75 words or so.
# Found: the last tokens are cut off, and with them the end token, at which CLIP reads its embedding. Where there is none,
#   CLIP of transformers reads the first position instead, which sees no word. All such captions have one embedding, with
#   the configurations of today and with OpenAI's old ones (`eos_token_id` 2).
# Matters: long prompts (those of language models, of Emu Edit's captions, of long-caption benchmarks) score alike, so
#   that methods seem level, and lower or higher than short prompts for no reason of the pictures.
# Source: https://github.com/Lightning-AI/torchmetrics/issues/2883 (open: scores are low); `_get_features` in
#   torchmetrics/functional/multimodal/clip_score.py; `CLIPTextTransformer.forward` in transformers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.14.1 torchvision==0.29.1 torchmetrics==1.9.0 \
    transformers==4.57.1 pillow==13.0.0 numpy==2.4.6 setuptools==80.9.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import json
import string
import warnings

import torch
from torchmetrics.multimodal.clip_score import CLIPScore
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

warnings.simplefilter("ignore")
letters = list(string.ascii_lowercase)  # a token each: no vocabulary need be fetched
vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
with open("vocab.json", "w") as file:
    json.dump({token: number for number, token in enumerate(vocabulary)}, file)
with open("merges.txt", "w") as file:
    file.write("#version: 0.2\n")
tokenizer = CLIPTokenizer("vocab.json", "merges.txt", model_max_length=77)
start, end = len(vocabulary) - 2, len(vocabulary) - 1
size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
picture = torch.randint(0, 256, (3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
captions = ["a photograph of a cat on the beach " * 4, "two red boats in the harbour of a town " * 4]
assert all(len(tokenizer(caption)["input_ids"]) > 77 for caption in captions)
for told, eos in (("today's", end), ("OpenAI's old", 2)):
    torch.manual_seed(0)
    text = {"vocab_size": len(vocabulary), "bos_token_id": start, "eos_token_id": eos, "pad_token_id": end}
    config = CLIPConfig(text_config={**size, **text}, vision_config={**size, "image_size": 32, "patch_size": 8})
    model, processor = CLIPModel(config).eval(), CLIPProcessor(images, tokenizer)
    with torch.no_grad():
        model.text_projection.weight.mul_(10)

    def embedding(caption: str) -> torch.Tensor:
        seen = []
        kept = model.get_text_features
        model.get_text_features = lambda *given: seen.append(kept(*given)) or seen[-1]
        metric = CLIPScore(model_name_or_path=lambda: (model, processor))
        metric.update(picture, caption)
        model.get_text_features = kept
        return seen[-1][0]

    long = [embedding(caption) for caption in captions]
    short = [embedding(caption[:40]) for caption in captions]
    apart = [float((one - other).norm() / one.norm()) for one, other in (long, short)]
    print(f"{told} configuration: two long captions' embeddings are {apart[0]:.4f} apart, two short ones' {apart[1]:.4f}")
    assert apart[0] < 1e-6, "long captions are told apart"
    assert apart[1] > 0.01
PYTHON
