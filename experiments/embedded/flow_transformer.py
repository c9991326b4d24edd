"""The embedded world's flow transformer: a small StableDiffusion3Pipeline (Esser et al. 2024) around the
embedded autoencoder and vocabulary, and attention for training it.

What the network reads of a caption. diffusers' pipeline puts two text encoders' last hidden states but one
side by side, and appends 256 tokens of zeros where there is no T5. Here the first encoder says which word a
token is, by a table of one vector a word, and the second where it stands; padding stands nowhere. No token of
a caption knows another one before the transformer, and the pooled vector is 0, so an edited word changes its
own token alone.
"""

import copy
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from experiments.embedded.input_errors import InputError

WORD_WIDTH, PLACE_WIDTH = 128, 32  # channels of the two text encoders
POOLED_WIDTH = 8  # channels of each encoder's pooled vector, all 0
ZERO_TOKENS = 256  # that diffusers appends where there is no T5 (encode_prompt's max_sequence_length)
FAR = 1_000  # size of the padding's place beside the other places' 1
HEAD_WIDTH = 32


def check_width(width: int) -> None:
    """Raise InputError for a width that does not fall into heads."""
    if width < HEAD_WIDTH or width % HEAD_WIDTH:
        raise InputError(f"width: {width}, allowed is a multiple of {HEAD_WIDTH}")


def build_transformer(width: int = 160, blocks: int = 5) -> SD3Transformer2DModel:
    """Return the untrained transformer on 8x8 patches of 2x2 latents; by default 4.5 M parameters.

    Each block begins as the identity and the output as 0 (Peebles and Xie 2023, adaLN-Zero). Raises
    InputError for a width that is no multiple of 32.
    """
    check_width(width)
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=blocks,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=width // HEAD_WIDTH,
        joint_attention_dim=WORD_WIDTH + PLACE_WIDTH,
        caption_projection_dim=width,
        pooled_projection_dim=2 * POOLED_WIDTH,
        pos_embed_max_size=8,
    )
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
            if name == "proj_out" or "norm" in name:  # the modulations are the linear layers of norms
                nn.init.zeros_(module.weight)
    return transformer


@torch.no_grad()
def shipped_words(shipped: CLIPTextModel) -> Tensor:
    """Return what the shipped, context-free encoder says of a token, mean over places: (vocabulary, 128)."""
    length = shipped.config.max_position_embeddings
    ids = torch.arange(shipped.config.vocab_size)[:, None].expand(-1, length)
    return torch.cat([shipped(part).last_hidden_state[:, 1:].mean(1) for part in ids.split(100)])


@torch.no_grad()
def encoder_of_words(tokenizer: CLIPTokenizer, words: Tensor) -> CLIPTextModelWithProjection:
    """Return the first text encoder, of these vectors (vocabulary, 128), wherever a token stands."""
    encoder = _embeddings_alone(tokenizer, WORD_WIDTH)
    table(encoder).copy_(words)
    return encoder


@torch.no_grad()
def encoder_of_places(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """Return the second text encoder: waves by where a token stands; padding stands far from all."""
    encoder = _embeddings_alone(tokenizer, PLACE_WIDTH)
    frequencies = 2 ** (-torch.arange(PLACE_WIDTH // 2) / 3)
    angles = torch.arange(tokenizer.model_max_length)[:, None] * math.pi / 2 * frequencies
    _positions(encoder).copy_(torch.cat([angles.sin(), angles.cos()], 1))
    drawn = torch.randn(PLACE_WIDTH, generator=torch.Generator().manual_seed(0))
    table(encoder)[tokenizer.pad_token_id] = FAR * drawn
    return encoder


def _embeddings_alone(tokenizer: CLIPTokenizer, width: int) -> CLIPTextModelWithProjection:
    """Return an encoder of which every weight is 0, with one layer that nothing reads.

    diffusers takes the last hidden states but one: of one layer, the embeddings.
    """
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=8,
        projection_dim=POOLED_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = CLIPTextModelWithProjection(config)
    for parameter in encoder.parameters():
        nn.init.zeros_(parameter)
    return encoder.requires_grad_(False)


def table(encoder: CLIPTextModelWithProjection) -> nn.Parameter:
    """Return an encoder's vectors of tokens (vocabulary, width)."""
    weight: nn.Parameter = encoder.get_input_embeddings().weight
    return weight


def _positions(encoder: CLIPTextModelWithProjection) -> nn.Parameter:
    weight: nn.Parameter = encoder.text_model.embeddings.position_embedding.weight
    return weight


@dataclass(frozen=True)
class Counted:
    """Text tokens of which equal ones stand once, with how often each stands in the pipeline."""

    embeds: Tensor  # (batch, tokens, channels)
    counts: Tensor  # (batch, tokens)


class FlowModel(nn.Module):
    """What is trained: the transformer and the table of words (vocabulary, 128)."""

    places: Tensor  # (tokens, channels), by where a token stands
    nowhere: Tensor  # (channels,), the padding's place

    def __init__(
        self,
        transformer: SD3Transformer2DModel,
        words: Tensor,
        tokenizer: CLIPTokenizer,
    ) -> None:
        super().__init__()
        self.transformer, self.padding = transformer, tokenizer.pad_token_id
        self.words = nn.Parameter(words)
        places = encoder_of_places(tokenizer)
        self.register_buffer("places", _positions(places).detach(), persistent=False)
        self.register_buffer("nowhere", table(places).detach()[self.padding], persistent=False)
        self.attention = counting_processors(transformer)

    def text(self, ids: Tensor) -> Counted:
        """Return what the pipeline encodes captions to: ids (batch, tokens), padded, tokens from 0 on.

        Alike are all of a row's padding, as its place drowns the tokens' places, and the zeros. They attend
        and are attended alike in every block, so that one of them, counted as often, is all of them.
        """
        padded = ids == self.padding
        longest = int((~padded).sum(1).max()) + 1
        kept, padded = ids[:, :longest].long(), padded[:, :longest]
        where = torch.where(padded[..., None], self.nowhere, self.places[:longest])
        embeds = torch.cat([self.words[kept], where], 2)
        counts = torch.ones_like(kept, dtype=torch.float32)
        counts[:, -1] = ids.shape[1] - longest + 1
        return Counted(
            nn.functional.pad(embeds, (0, 0, 0, 1)), nn.functional.pad(counts, (0, 1), value=ZERO_TOKENS)
        )

    def forward(self, latents: Tensor, sigmas: Tensor, text: Counted) -> Tensor:
        """Return the velocity, noise - picture, of latents (batch, 4, 16, 16) at noise levels in [0, 1]."""
        pooled = latents.new_zeros(len(latents), 2 * POOLED_WIDTH)
        velocity: Tensor = self.transformer(
            latents,
            text.embeds,
            pooled,
            sigmas * 1000,
            joint_attention_kwargs={"counts": text.counts},
            return_dict=False,
        )[0]
        return velocity


class CountingProcessor:
    """Materialised joint attention in which a text token counts as often as it is told.

    `probabilities` (batch, pixels, text tokens), mean over heads, are the last call's, of all that count as
    one token together.
    """

    probabilities: Tensor

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, counts: Tensor, **_: object
    ) -> tuple[Tensor, Tensor]:
        """Attend from and to (batch, pixels, channels) and (batch, tokens, channels)."""
        pixels = hidden_states.shape[1]
        pairs = (attn.to_q, attn.add_q_proj), (attn.to_k, attn.add_k_proj), (attn.to_v, attn.add_v_proj)
        query, key, value = (
            torch.cat([image(hidden_states), text(encoder_hidden_states)], 1)
            .unflatten(-1, (attn.heads, -1))
            .transpose(1, 2)
            for image, text in pairs
        )
        often = nn.functional.pad(counts.log(), (pixels, 0))[:, None, None]
        scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + often
        maps = scores.softmax(-1)
        self.probabilities = maps[:, :, :pixels, pixels:].mean(1)
        output = (maps.to(value.dtype) @ value).transpose(1, 2).flatten(2)
        image, words = output[:, :pixels], output[:, pixels:]
        return attn.to_out[0](image), words if attn.context_pre_only else attn.to_add_out(words)


def counting_processors(transformer: SD3Transformer2DModel) -> list[CountingProcessor]:
    """Let the transformer's attention count its text tokens; return the processors that do."""
    processors = {name: CountingProcessor() for name in transformer.attn_processors}
    transformer.set_attn_processor(dict(processors))
    return list(processors.values())


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Return the sampler's schedule, not shifted: latents this small show little under much noise."""
    return FlowMatchEulerDiscreteScheduler(shift=1.0)


def save_pipeline(folder: Path, model: FlowModel, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> None:
    """Write the whole pipeline in float16, in place of what the folder held."""
    new, old = (folder.with_name(f"{folder.name}.{state}") for state in ("new", "old"))
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    vae = copy.deepcopy(vae).cpu().half()
    vae.register_to_config(shift_factor=0.0, _name_or_path="")  # the pipeline adds it without asking
    StableDiffusion3Pipeline(
        transformer=build_like(model.transformer),
        scheduler=build_scheduler(),
        vae=vae,
        text_encoder=encoder_of_words(tokenizer, model.words.cpu()).half(),
        tokenizer=tokenizer,
        text_encoder_2=encoder_of_places(tokenizer).half(),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    ).save_pretrained(new)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def build_like(transformer: SD3Transformer2DModel) -> SD3Transformer2DModel:
    """Return a copy in float16 on the CPU, without what was installed for training."""
    plain: SD3Transformer2DModel = SD3Transformer2DModel.from_config(transformer.config)
    plain.load_state_dict(copy.deepcopy(transformer.state_dict()))
    return plain.half()
