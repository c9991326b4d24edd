"""Attention processors written by hand for transformers of one softmax over image and text, in which a test
reads and replaces projections and maps."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux2 import Flux2ParallelSelfAttention
from diffusers.models.transformers.transformer_qwenimage import apply_rotary_emb_qwen
from torch import Tensor

from p2p import Flux, Flux2, Model, QwenImage, ZImage
from tests.p2p.families import test_flux, test_flux2

# How an edit names a family's blocks, and the modules that these are.
ALL = {
    "sd3": ["double-0..2"],
    "flux": ["double-0..1", "single-0"],
    "qwen_image": ["double-0..1"],
    "flux2_klein": ["double-0..1", "single-0"],
    "z_image": ["single-0..1"],
}
EVERY = {
    "sd3": [f"transformer_blocks.{i}" for i in range(3)],
    "flux": ["transformer_blocks.0", "transformer_blocks.1", "single_transformer_blocks.0"],
    "qwen_image": ["transformer_blocks.0", "transformer_blocks.1"],
    "flux2_klein": ["transformer_blocks.0", "transformer_blocks.1", "single_transformer_blocks.0"],
    "z_image": ["layers.0", "layers.1"],
}


def family_of(model: Model) -> str:
    if isinstance(model, QwenImage):
        return "qwen_image"
    if isinstance(model, Flux2):  # dev's attention is Klein's
        return "flux2_klein"
    if isinstance(model, ZImage):
        return "z_image"
    return "flux" if isinstance(model, Flux) else "sd3"


class Tape(Protocol):
    """What a test keeps of a layer's arithmetic, and puts in its place."""

    layers: Sequence[str]

    def __call__(self, layer: str, image: list[Tensor], text: list[Tensor]) -> None:
        """Read or replace, in the lists, queries, keys and values (rows, heads, tokens, channels)."""

    def maps(self, layer: str, scores: Tensor) -> Tensor:
        """Return the maps of scores (rows, heads, queries, keys)."""


@dataclass
class TapedProcessor:
    """Attention with formed maps of image and text; projections and scores go through a tape."""

    layer: str
    tape: Tape
    family: str

    def __call__(
        self,
        attn,
        hidden_states,
        encoder_hidden_states=None,
        attention_mask=None,
        image_rotary_emb=None,
        encoder_hidden_states_mask=None,
        freqs_cis=None,
    ) -> Any:
        mlp = None
        if isinstance(attn, Flux2ParallelSelfAttention):  # by place: no text, mask, rotary embedding
            encoder_hidden_states, image_rotary_emb = None, attention_mask
            joined = attn.to_qkv_mlp_proj(hidden_states)
            mlp = attn.mlp_act_fn(joined[..., 3 * attn.inner_dim :])

        def projected(states: Tensor, names: tuple[str, ...], norms: tuple[Any, Any]) -> list[Tensor]:
            made = [getattr(attn, n)(states) for n in names]
            whole = [one.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for one in made]
            return [norms[0](whole[0]), norms[1](whole[1]), whole[2]]

        own = ("to_q", "to_k", "to_v"), (attn.norm_q, attn.norm_k)
        length = {"flux": test_flux.TEXT, "flux2_klein": test_flux2.TEXT}.get(self.family)
        if encoder_hidden_states is not None:
            added = ("add_q_proj", "add_k_proj", "add_v_proj"), (attn.norm_added_q, attn.norm_added_k)
            image, text = projected(hidden_states, *own), projected(encoder_hidden_states, *added)
        elif mlp is not None:
            parts = (
                joined[..., : 3 * attn.inner_dim].unflatten(-1, (3, attn.heads, -1)).permute(2, 0, 3, 1, 4)
            )
            whole = [attn.norm_q(parts[0]), attn.norm_k(parts[1]), parts[2]]
            image, text = ([x[:, :, cut] for x in whole] for cut in (slice(length, None), slice(0, length)))
        elif self.family == "z_image":  # 64 tokens of the image before the text's
            image, text = (projected(part, *own) for part in (hidden_states[:, :64], hidden_states[:, 64:]))
        elif self.family == "flux":
            image, text = (
                projected(part, *own) for part in (hidden_states[:, length:], hidden_states[:, :length])
            )
        else:  # the second attention of Stable Diffusion 3.5, of the image alone
            query, key, value = projected(hidden_states, *own)
            output = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1) @ value
            return attn.to_out[0](output.transpose(1, 2).flatten(2))
        self.tape(self.layer, image, text)
        if self.family == "qwen_image":
            for part, angles in zip((image, text), image_rotary_emb, strict=True):
                part[:2] = (
                    apply_rotary_emb_qwen(x.transpose(1, 2), angles, use_real=False).transpose(1, 2)
                    for x in part[:2]
                )
        order = (image, text) if self.family in ("sd3", "z_image") else (text, image)
        query, key, value = (torch.cat(pair, 2) for pair in zip(*order, strict=True))
        if self.family == "z_image":
            query, key = (apply_rotary_emb_qwen(x, freqs_cis, use_real=False) for x in (query, key))
        if length is not None:
            query, key = apply_rotary_emb(query, image_rotary_emb), apply_rotary_emb(key, image_rotary_emb)
        maps = self.tape.maps(self.layer, query @ key.mT / query.shape[-1] ** 0.5)
        output = (maps @ value).transpose(1, 2).flatten(2)
        if self.family == "z_image":
            return attn.to_out[0](output)
        if mlp is not None:
            return attn.to_out(torch.cat([output, mlp], -1))
        if encoder_hidden_states is None:
            return output
        length = encoder_hidden_states.shape[1]
        if self.family != "sd3":
            return attn.to_out[0](output[:, length:]), attn.to_add_out(output[:, :length])
        words = output[:, -length:]
        return attn.to_out[0](output[:, :-length]), words if attn.context_pre_only else attn.to_add_out(words)


@contextmanager
def taped(model: Model, tape: Tape) -> Iterator[None]:
    """Install the test's processors, which ask a tape."""
    names = model.attention_layers
    assert set(tape.layers) <= set(names)
    modules = [model.denoiser.get_submodule(name.removesuffix(".processor")) for name in names]
    original = [module.processor for module in modules]
    for name, module in zip(names, modules, strict=True):
        module.set_processor(TapedProcessor(name, tape, family_of(model)))
    try:
        yield
    finally:
        for module, present in zip(modules, original, strict=True):
            module.set_processor(present)
