"""VQAScore (Lin et al. 2024): how probably a judge says that an image shows its target prompt.

The question is the paper's; it is part of the columns' version. The judge is any model that transformers'
AutoModelForImageTextToText reads, if it is a decoder and has a chat template.
"""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evaluation.batches import in_batches
from evaluation.edits import Edits
from evaluation.metric import Scores
from evaluation.weights import Pinned, hub_arguments, require_files, require_hub, weights_folder

QUESTION = 'Does this figure show "{}"? Please answer yes or no.'
PUBLISHED = Pinned("Qwen/Qwen2-VL-2B-Instruct", "895c3a49bc3fa70a340399125c650a463535e71c")
# A model of several files has an index; either may be there.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PREPROCESSING = ("config.json", "preprocessor_config.json", "tokenizer_config.json")


class VqaScore:
    """Give the probability in [0, 1] that a judge's answer begins with yes, however that is spelled.

    The judge is asked QUESTION about the edited image and its target prompt. The probability is that of the
    tokens that read "yes" but for capitals and spaces, together, among all tokens, of the model's own logits:
    `generate` would apply a checkpoint's repetition penalty to words of the question. Models run in float32.
    A target prompt that holds a special token of the judge, which would end the question, is missing.

    `backbone` is a Hugging Face repository, by default PUBLISHED at its commit (9 GB in float32), another one
    with the `revision` to take; or any name for the model in `folder`, as transformers saves it with its
    processor. The published weights were never run by this project.
    """

    def __init__(
        self,
        backbone: str = PUBLISHED.repo,
        revision: str | None = None,
        folder: str | Path | None = None,
        device: str = "cpu",
        batch_size: int = 8,
    ) -> None:
        if folder is not None and revision is not None:
            raise ValueError(f"revision is {revision!r} and folder {folder!r}; allowed: one of them at most")
        if backbone == PUBLISHED.repo and folder is None:
            revision = revision or PUBLISHED.revision
        if folder is None and not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
            raise ValueError(
                f"revision is {revision!r} for {backbone}; allowed: a commit's 40 hexadecimal digits"
            )
        self.backbone, self.revision = backbone, revision
        self.folder = None if folder is None else weights_folder(folder)
        self.device, self.batch_size = device, batch_size
        label = re.sub(r"[^\w.-]+", "-", backbone)
        if revision not in (None, PUBLISHED.revision):
            label += f"_{str(revision)[:7]}"
        self.name = f"vqascore_{label}@1"
        self.names = (self.name,)
        self.higher_is_better: Mapping[str, bool] = {self.name: True}

    @property
    def source(self) -> Path | Pinned:
        """Where the model is read from."""
        return self.folder or Pinned(self.backbone, str(self.revision))

    def check(self) -> None:
        """Raise in one line if the weights cannot be had."""
        if self.folder is not None:
            require_files(self.name, self.folder, _PREPROCESSING[::2])
            if not (self.folder / _WEIGHTS[1]).exists():
                require_files(self.name, self.folder, _WEIGHTS[:1])
        else:
            for files in (_WEIGHTS, *((file,) for file in _PREPROCESSING)):
                require_hub(self.name, Pinned(self.backbone, str(self.revision)), files)

    def load(self) -> None:
        """Load the weights now rather than at the first call."""
        self.processor, self.model  # noqa: B018

    @cached_property
    def processor(self) -> Any:
        """The judge's preprocessing and tokenizer. Raises ValueError where it cannot be asked."""
        from transformers import AutoProcessor

        self.check()
        processor = AutoProcessor.from_pretrained(**hub_arguments(self.source))
        if getattr(processor, "chat_template", None) is None:
            raise ValueError(f"{self.name}: the processor has no chat template; allowed: a model that chats")
        return processor

    @cached_property
    def model(self) -> Any:
        """The judge, in float32. Raises ValueError for an encoder with a decoder."""
        from transformers import AutoModelForImageTextToText

        self.check()
        model = AutoModelForImageTextToText.from_pretrained(**hub_arguments(self.source), dtype=torch.float32)
        if model.config.is_encoder_decoder:
            raise ValueError(f"{self.name}: the model is an encoder with a decoder; allowed: a decoder alone")
        return model.eval().to(self.device)

    @cached_property
    def yes(self) -> list[int]:
        """The tokens that read "yes". Raises ValueError where there is none."""
        tokenizer = self.processor.tokenizer
        words = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
        tokens = [token for token, word in enumerate(words) if word.strip().lower() == "yes"]
        if not tokens:
            raise ValueError(f"{self.name}: no token of the judge reads yes; allowed: a model that has one")
        return tokens

    def __call__(self, edits: Edits) -> dict[str, Scores]:
        """Score every edit. Images of one target prompt go together, so that nothing is ever padded."""
        values = torch.zeros(len(edits), dtype=torch.float64)
        reasons = tuple(map(self._reason, edits.target_prompts))
        for prompt in dict.fromkeys(edits.target_prompts):
            if not self._reason(prompt):
                rows = torch.tensor([row for row, own in enumerate(edits.target_prompts) if own == prompt])
                values[rows] = self._probabilities(edits.images, rows, QUESTION.format(prompt))
        return {self.name: Scores.of(values, reasons)}

    def _reason(self, prompt: str) -> str:
        known = self.processor.tokenizer.added_tokens_decoder.values()
        held = [token.content for token in known if token.special and token.content in prompt]
        return f"target prompt holds the judge's token {held[0]}" if held else ""

    @torch.inference_mode()
    def _probabilities(self, images: Tensor, rows: Tensor, question: str) -> Tensor:
        """Return the probability of yes for the images (N, 3, H, W) in these rows, all asked one question."""
        from torchvision.transforms.functional import to_pil_image

        def ask(part: Tensor) -> Tensor:
            chats = []
            for image in (images[part] * 255).round().to(torch.uint8):
                shown = {"type": "image", "image": to_pil_image(image)}
                chats.append([{"role": "user", "content": [shown, {"type": "text", "text": question}]}])
            inputs = self.processor.apply_chat_template(
                chats, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
            logits = self.model(**inputs.to(self.device)).logits[:, -1]
            return logits.cpu().double().softmax(dim=-1)[:, self.yes].sum(dim=-1)

        return in_batches(ask, rows, self.batch_size)
