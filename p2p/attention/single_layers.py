"""Single layers from which an edit may take: of a UNet self-attention and the decoder's residual blocks, of a
transformer with joint attention its blocks (joint_blocks.py).

MasaCtrl and Plug-and-Play (p2p/methods) count layers and blocks as their authors' code does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from p2p.attention.heads import Heads
from p2p.attention.joint_blocks import JOINT_MODELS, Blocks

Number = int | Literal["auto"]
"""A layer or a block, counted from 0. "auto" is a rule that gives the published one in SD 1.x."""

NO_LAYERS = (
    "takes from single layers of a UNet whose self-attention has a softmax of its own, which this model has "
    "not; allowed are Stable Diffusion 1.x, 2.x and XL and Latent Diffusion"
)
NO_VALUES = (
    "value_replace_steps: takes the image's values from a softmax over text and image on one grid of tokens, "
    f"which this model has not; allowed are 0, and {JOINT_MODELS}"
)
SHARED = {"queries": "query", "keys": "key", "values": "value", "text_values": "text value"}
"""What joint attention can take from a source, by the plural that names it: of the image but for the last."""
QUERIES_KEYS = ("query", "key")
_PARTS = ("down_blocks", "mid_block", "up_blocks")  # in the order in which they are called


@dataclass(frozen=True)
class LayerInjection:
    """What a branch takes from its source in single layers at one step; None: nothing.

    Unconditional rows take from the source's unconditional row, conditional rows from the conditional one;
    projections are taken by conditional rows alone, and with nothing else.
    """

    keys_values: Number | None = None  # softmax(Q_t K_s^T) V_s in self-attention layers from this one on
    queries_keys: Number | None = None  # softmax(Q_s K_s^T) V_t in self-attention from this decoder block on
    features: Number | None = None  # of this decoder block's residual block, before its skip is added
    projections: Blocks | None = None  # the tensors `shared`, in these blocks of joint attention
    shared: tuple[str, ...] = QUERIES_KEYS  # of `SHARED`, in its order
    heads: Heads | None = None  # in which projections are taken; None: in all
    outside: str = ""  # the key of the `ValueArea` in which a target keeps its own values; "" for nowhere

    @property
    def key(self) -> str:
        """A short text that is equal for equal injections."""
        if self.projections is not None:
            shared = "" if self.shared == QUERIES_KEYS else f" of {', '.join(self.shared)}"
            heads = f" in heads {self.heads.key}" if self.heads else ""
            outside = f" outside {self.outside}" if self.outside else ""
            return f"projections {self.projections.key}{shared}{heads}{outside}"
        return f"kv {self.keys_values} qk {self.queries_keys} features {self.features}"

    def check_blocks(self, counts: Mapping[str, int | None]) -> None:
        """Raise ValueError where projections are taken in blocks that a model has not.

        `counts` are its blocks of joint attention by stream, {} where it has none.
        """
        if self.outside and not counts:
            raise ValueError(NO_VALUES)
        if self.projections is not None:
            self.projections.check(counts)


@dataclass(frozen=True)
class DecoderBlock:
    """A residual block of the decoder, and the self-attention layers of the transformer after it."""

    residual: str
    attention: tuple[str, ...]  # () where no transformer follows

    @property
    def level(self) -> str:
        """The decoder level, of one resolution, that the block belongs to: "up_blocks.1"."""
        return ".".join(self.residual.split(".")[:2])


@dataclass(frozen=True)
class UNetLayers:
    """A UNet's self-attention layers, in the order in which they are called, and its decoder's blocks."""

    attention: tuple[str, ...]
    decoder: tuple[DecoderBlock, ...]

    @classmethod
    def of(cls, unet: Any) -> UNetLayers:
        """Return the layers and blocks of a UNet2DConditionModel.

        It registers its middle after its decoder, so layers are sorted into the order of calls here.
        """
        names = [name for name in unet.attn_processors if ".attn1." in name]
        attention = tuple(sorted(names, key=lambda name: _PARTS.index(name.split(".")[0])))
        decoder = []
        for level, block in enumerate(unet.up_blocks):
            for i in range(len(block.resnets)):
                place = f"up_blocks.{level}.attentions.{i}."
                own = tuple(name for name in attention if name.startswith(place))
                decoder.append(DecoderBlock(f"up_blocks.{level}.resnets.{i}", own))
        return cls(attention, tuple(decoder))

    def taken(self, wanted: LayerInjection) -> tuple[str, ...]:
        """Return the names of the tensors that an injection takes.

        "<attention layer>/query", "/key" or "/value", or the name of a module whose output is taken. Raises
        ValueError for a layer or a block that this UNet does not have.
        """
        names: list[str] = []
        if wanted.keys_values is not None:
            layers = self.attention[self._first_layer(wanted.keys_values) :]
            names += [f"{layer}/{what}" for layer in layers for what in ("key", "value")]
        if wanted.queries_keys is not None:
            last = max((i for i, block in enumerate(self.decoder) if block.attention), default=-1)
            first = self._block("attention_block", wanted.queries_keys, last)
            layers = tuple(layer for block in self.decoder[first:] for layer in block.attention)
            names += [f"{layer}/{what}" for layer in layers for what in ("query", "key")]
        if wanted.features is not None:
            block = self._block("feature_block", wanted.features, len(self.decoder) - 1)
            names.append(f"{self.decoder[block].residual}.conv2")  # the last module before the skip is added
        return tuple(dict.fromkeys(names))

    def _first_layer(self, number: Number) -> int:
        """Return a self-attention layer's number.

        "auto" is the first layer of the second decoder level with self-attention: 10 of 16 in Stable
        Diffusion 1.x. Raises ValueError for a layer that this UNet does not have.
        """
        if isinstance(number, int) and number < len(self.attention):
            return number
        attending = [block for block in self.decoder if block.attention]
        second = next((block for block in attending if block.level != attending[0].level), None)
        if number == "auto" and second is not None:
            return self.attention.index(second.attention[0])
        places = [name.split(".")[0] for name in self.attention]
        where = {part: [i for i, place in enumerate(places) if place == part] for part in _PARTS}
        there = [f"{_range(numbers)} ({part})" for part, numbers in where.items() if numbers]
        there += ["auto"] if second else []
        raise ValueError(
            f"start_layer: {number} is no self-attention layer of this UNet, allowed are "
            f"{', '.join(there) or 'none'}"
        )

    def _block(self, name: str, number: Number, last: int) -> int:
        """Return a decoder block's number, at most `last`.

        "auto" is the second decoder block with self-attention: 4 of 12 in Stable Diffusion 1.x. Raises
        ValueError for a block that cannot be taken from; `name` is the parameter to name.
        """
        attending = [i for i, block in enumerate(self.decoder) if block.attention]
        if isinstance(number, int) and number <= last:
            return number
        if number == "auto" and len(attending) > 1:
            return attending[1]
        there = ([_range(range(last + 1))] if last >= 0 else []) + (["auto"] if len(attending) > 1 else [])
        raise ValueError(
            f"{name}: {number} is no decoder block to take from, allowed are {', '.join(there) or 'none'} "
            f"(self-attention is in {', '.join(map(str, attending)) or 'none'})"
        )


def shared_tensors(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return the tensors that names such as "keys", or one, stand for, in one order.

    Raises ValueError for what is none of these, nothing, and a name that is given twice.
    """
    several = [names] if isinstance(names, str) else names
    allowed = f"allowed are {', '.join(SHARED)}, each once"
    if not isinstance(several, Sequence) or not several:
        raise ValueError(f"share: {names!r} names nothing to take, {allowed}")
    for name in several:
        if name not in tuple(SHARED) or list(several).count(name) > 1:
            raise ValueError(f"share: {name!r} of {list(several)} cannot be taken, {allowed}")
    return tuple(tensor for name, tensor in SHARED.items() if name in several)


def check_number(name: str, number: object) -> None:
    """Raise ValueError for what is neither "auto" nor a whole number of at least 0."""
    whole = isinstance(number, int) and not isinstance(number, bool) and number >= 0
    if number != "auto" and not whole:
        raise ValueError(f"{name}: {number!r} is not 'auto' or a whole number of at least 0")


def _range(numbers: Sequence[int]) -> str:
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
