#!/usr/bin/env bash
# With an added token in the prompt, CLIP's pooled embedding ends at that token and ignores the rest of the prompt.
#
# Package: transformers 5.23.0.
# Guess: the pooled text embedding is read at the end-of-text token, so it stands for the whole prompt, whatever
#   tokens have been added to the vocabulary.
# Found: where the config says `eos_token_id` 2, as older CLIP configs do, the embedding is read at the largest
#   token id. That is the end token (49407) until a token is added: textual inversion adds 49408 and up, so the
#   embedding is read there, and attention being causal no later word reaches it. Two prompts that differ only after
#   the added token have the same pooled embedding. With `eos_token_id` 49407 they differ.
# Matters: textual inversion adds tokens, and SDXL feeds the pooled embedding to its UNet at every step. An edit of
#   a word after the learned token then changes the cross-attention but not the pooled condition, and a text
#   embedding used as a score does not see the edit at all.
# Source: `CLIPTextModel.forward` in transformers/models/clip/modeling_clip.py, whose comment says so;
#   https://github.com/huggingface/transformers/pull/24773.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile transformers==5.23.0 torch==2.14.1 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

START, END, ADDED = 49406, 49407, 49408
SNOW, FIRE = 2583, 1769  # any two ids of ordinary words


def difference(eos_token_id, third):
    torch.manual_seed(0)
    model = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=ADDED + 1,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=32,
            bos_token_id=START,
            eos_token_id=eos_token_id,
            pad_token_id=END,
        )
    ).eval()
    ids = torch.tensor([[START, 320, third, 530, last, END, END] for last in (SNOW, FIRE)])
    with torch.no_grad():
        one, other = model(ids).text_embeds
    return round(float((one - other).abs().max()), 4)


found = {
    "old config, ordinary word": difference(2, 2368),
    "old config, added token": difference(2, ADDED),
    "new config, added token": difference(END, ADDED),
}
print("what changing a later word does to the pooled embedding:", found)
assert found["old config, added token"] == 0, "the pooled embedding sees words after an added token now"
assert found["old config, ordinary word"] > 0.001
assert found["new config, added token"] > 0.001
PYTHON
