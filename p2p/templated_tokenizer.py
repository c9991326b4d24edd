"""The tokenizer of a pipeline that puts a prompt into a chat model's template before it encodes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "{}"  # in the prompt's place, to see what stands before and after it


def as_user(prompt: str) -> list[dict[str, Any]]:
    """Return a prompt as the one message of a conversation."""
    return [{"role": "user", "content": prompt}]


@dataclass(frozen=True)
class ChatTemplate:
    """A conversation with a prompt in it, written out by a tokenizer's own chat template."""

    tokenizer: PreTrainedTokenizerBase
    options: tuple[tuple[str, Any], ...]  # of its `apply_chat_template`
    messages: Callable[[str], list[dict[str, Any]]] = as_user

    def __call__(self, prompt: str) -> str:
        """Return the text that is encoded."""
        messages, options = self.messages(prompt), dict(self.options)
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, **options))


@dataclass(frozen=True)
class TemplatedTokenizer:
    """A prompt's tokens among those of its template, of which the pipeline drops the first `dropped`.

    Where a word stands is read from the ids of the whole text. What is left of the template is attended and
    stands for no word, as an end token is.
    """

    tokenizer: PreTrainedTokenizerBase  # a fast one, which gives offsets
    written: Callable[[str], str]  # from a prompt to the whole text
    dropped: int = 0
    padding: str = "right"  # or "left": where the pipeline has its padding, which is then among the tokens
    multiple: int | None = None  # prompts are padded to one of it, by learned tokens; None: to the limit
    begun_once: bool = False  # whether a text that begins with the tokenizer's begin token gets no second one
    is_fast: ClassVar[bool] = True

    @property
    def model_max_length(self) -> int:
        """The number of tokens that prompts are padded to, after the dropped ones."""
        limit: int = self.tokenizer.model_max_length
        return limit

    @cached_property
    def around(self) -> tuple[str, str]:
        """The text before a prompt, and the text after it."""
        before, _, after = self.written(MARK).partition(MARK)
        return before, after

    def __len__(self) -> int:
        return len(self.tokenizer)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        return str(self.tokenizer.decode(ids))

    def __call__(self, prompt: str, **_: Any) -> Mapping[str, Any]:
        """Return the encoding without the dropped tokens; offsets are places in the prompt.

        Raises ValueError where the template changes the prompt, one token is of both, or a token of the
        prompt would be dropped.
        """
        before, after = self.around
        text, begin = self.written(prompt), len(before)
        end = begin + len(prompt)
        if text != before + prompt + after:
            raise ValueError(f"prompt {prompt!r} is changed by the template that the model puts it into")
        bos = self.tokenizer.bos_token if self.begun_once else None
        begun = bos is not None and text.startswith(bos)
        encoding = self.tokenizer(
            text, add_special_tokens=not begun, return_offsets_mapping=True, verbose=False
        )
        places = encoding["offset_mapping"]
        own = [begin <= first and last <= end and first < end for first, last in places]
        if any(first < edge < last for first, last in places for edge in (begin, end)):
            raise ValueError(f"prompt {prompt!r} shares a token with the text that the model puts around it")
        if any(own[: self.dropped]):
            raise ValueError(
                f"prompt {prompt!r} begins after {own.index(True)} tokens of its template, of which the "
                f"pipeline drops {self.dropped}; allowed is the tokenizer that the pipeline was made for"
            )
        ids, kept = encoding["input_ids"][self.dropped :], places[self.dropped :]
        left = max(0, self.model_max_length - len(ids)) if self.padding == "left" else 0
        return {
            "input_ids": [self.tokenizer.pad_token_id] * left + ids,
            "special_tokens_mask": [1] * left + [int(not one) for one in own[self.dropped :]],
            "offset_mapping": [(0, 0)] * left + [(first - begin, last - begin) for first, last in kept],
            "left_padding": left,
            "padded": -(-len(ids) // self.multiple) * self.multiple
            if self.multiple
            else self.model_max_length,
        }
