"""An open_clip model with its preprocessing and tokenizer (Radford et al. 2021), by name or from a folder.

Folder: `open_clip_config.json` ({"model_cfg", "preprocess_cfg"}), `open_clip_model.safetensors`, and the
tokenizer's folder, which `text_cfg.hf_tokenizer_name` names relative to it. open_clip takes seconds to
import, so only what loads a model does.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from evaluation.batches import in_batches
from evaluation.weights import require_files, require_hub, require_reachable

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
RANDOM = "random"


@dataclass(frozen=True, eq=False)
class Encoder:
    """Turn images and prompts into unit vectors of one space."""

    model: Any
    transform: Callable[[Image.Image], Tensor]
    tokenizer: Callable[..., Tensor]
    context_length: int
    device: str
    batch_size: int

    @torch.inference_mode()
    def images(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """Encode N images (3, H, W), of one size or of several, to (N, D) float64 unit vectors on the CPU.

        Images are rounded to 8 bits and go through open_clip's own transform of PIL images, which resizes,
        crops and normalises: that is part of the metric.
        """
        from torchvision.transforms.functional import to_pil_image

        def encode(rows: Tensor) -> Tensor:
            pictures = ((images[row].cpu() * 255).round().to(torch.uint8) for row in rows.tolist())
            pixels = torch.stack([self.transform(to_pil_image(picture)) for picture in pictures])
            return self._unit(self.model.encode_image(pixels.to(self.device)))

        return in_batches(encode, torch.arange(len(images)), self.batch_size)

    @torch.inference_mode()
    def prompts(self, prompts: Sequence[str]) -> Tensor:
        """Encode N prompts to (N, D) float64 unit vectors on the CPU, each distinct prompt once.

        Prompts longer than the context are NaN (`too_long` says why): open_clip would cut them silently.
        """
        distinct = list(dict.fromkeys(prompts))

        def encode(rows: Tensor) -> Tensor:
            part = [distinct[row] for row in rows.tolist()]
            tokens = self.tokenizer(part, context_length=self.context_length)
            # A truncated prompt has its end token moved to the last place. With one more place the first n
            # tokens differ, so a difference means the prompt was cut.
            longer = self.tokenizer(part, context_length=self.context_length + 1)
            cut = (longer[:, :-1] != tokens).any(dim=1, keepdim=True)
            vectors = self._unit(self.model.encode_text(tokens.to(self.device)))
            return vectors.masked_fill(cut, float("nan"))

        features = in_batches(encode, torch.arange(len(distinct)), self.batch_size)
        row = {prompt: index for index, prompt in enumerate(distinct)}
        return features[[row[prompt] for prompt in prompts]]

    def too_long(self, vectors: Tensor, name: str) -> tuple[str, ...]:
        """Say of each vector of `prompts` why it is NaN, "" where it is not; `name`: what it encodes."""
        reason = f"{name} longer than {self.context_length} tokens"
        return tuple(reason if cut else "" for cut in vectors.isnan().any(dim=1).tolist())

    @staticmethod
    def _unit(features: Tensor) -> Tensor:
        return torch.nn.functional.normalize(features.cpu().double(), dim=-1)


def load_pretrained(backbone: str, tag: str, device: str, batch_size: int) -> Encoder:
    """Load an open_clip model by name and pretrained tag; tag "random" gives seeded random weights."""
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    if tag == RANDOM:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = open_clip.create_model(backbone)
    else:
        # OpenAI's weights need QuickGELU, which the plain names do not switch on: open_clip only warns.
        quick_gelu = bool(get_pretrained_cfg(backbone, tag).get("quick_gelu", False))
        model = open_clip.create_model(backbone, tag, force_quick_gelu=quick_gelu, require_pretrained=True)
    return _encoder(model, open_clip.get_tokenizer(backbone), device, batch_size)


def load_folder(folder: Path, device: str, batch_size: int) -> Encoder:
    """Load an open_clip model and its tokenizer from a folder, without a network."""
    import open_clip
    from open_clip.tokenizer import HFTokenizer

    text_cfg = _text_cfg(folder)
    model = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True)
    tokenizer = HFTokenizer(
        str(folder / text_cfg["hf_tokenizer_name"]),
        context_length=model.context_length,
        tokenizer_mode=text_cfg.get("tokenizer_mode"),
        **text_cfg.get("tokenizer_kwargs", {}),
    )
    return _encoder(model, tokenizer, device, batch_size)


def check_pretrained(name: str, backbone: str, tag: str) -> None:
    """Raise if the name or the tag is unknown, or its weights are neither cached nor reachable."""
    import open_clip
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    if backbone not in open_clip.list_models():
        raise ValueError(f"backbone is {backbone!r}; allowed: one of {', '.join(open_clip.list_models())}")
    if tag == RANDOM:
        return
    tags = list_pretrained_tags_by_model(backbone)
    if tag not in tags:
        raise ValueError(f"pretrained is {tag!r} for {backbone}; allowed: {', '.join([*tags, RANDOM])}")
    config = get_pretrained_cfg(backbone, tag)
    if config["hf_hub"]:
        repo, _, file = config["hf_hub"].rpartition("/")
        require_hub(name, repo, (file,) if file else (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME))
    else:
        require_reachable(name, config["url"], Path("~/.cache/clip").expanduser() / Path(config["url"]).name)


def check_folder(name: str, folder: Path) -> None:
    """Raise if the folder lacks its configuration, weights or tokenizer."""
    require_files(name, folder, (CONFIG, WEIGHTS))
    tokenizer = _text_cfg(folder).get("hf_tokenizer_name")
    if not tokenizer:
        raise ValueError(f"{name}: text_cfg in {folder / CONFIG} lacks hf_tokenizer_name")
    require_files(name, folder, (f"{tokenizer}/tokenizer_config.json",))


def _text_cfg(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["model_cfg"]["text_cfg"])


def _encoder(model: Any, tokenizer: Callable[..., Tensor], device: str, batch_size: int) -> Encoder:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    return Encoder(model.eval().to(device), transform, tokenizer, model.context_length, device, batch_size)
