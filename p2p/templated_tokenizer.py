"""The tokenizer of a pipeline that puts a prompt into a chat model's template before it encodes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TemplatedTokenizer:
    """A prompt's tokens among those of its template, of which the pipeline drops the first `dropped`.

    Where a word stands is read from the ids of the whole text. What is left of the template is attended and
    stands for no word, as an end token is.
    """

    tokenizer: PreTrainedTokenizerBase  # a fast one, which gives offsets
    template: str  # with {} in the prompt's place
    dropped: int
    is_fast: ClassVar[bool] = True

    @property
    def model_max_length(self) -> int:
        """The number of tokens that prompts are padded to, after the dropped ones."""
        limit: int = self.tokenizer.model_max_length
        return limit

    def __len__(self) -> int:
        return len(self.tokenizer)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        return str(self.tokenizer.decode(ids))

    def __call__(self, prompt: str, **_: Any) -> Mapping[str, Any]:
        """Return the encoding without the dropped tokens; offsets are places in the prompt.

        Raises ValueError where one token is of the prompt and of the template, or a token of the prompt would
        be dropped.
        """
        begin = self.template.index("{}")
        end = begin + len(prompt)
        encoding = self.tokenizer(self.template.format(prompt), return_offsets_mapping=True, verbose=False)
        places = encoding["offset_mapping"]
        own = [begin <= first and last <= end and first < end for first, last in places]
        if any(first < edge < last for first, last in places for edge in (begin, end)):
            raise ValueError(f"prompt {prompt!r} shares a token with the text that the model puts around it")
        if any(own[: self.dropped]):
            raise ValueError(
                f"prompt {prompt!r} begins after {own.index(True)} tokens of its template, of which the "
                f"pipeline drops {self.dropped}; allowed is the tokenizer that the pipeline was made for"
            )
        return {
            "input_ids": encoding["input_ids"][self.dropped :],
            "special_tokens_mask": [int(not one) for one in own[self.dropped :]],
            "offset_mapping": [(first - begin, last - begin) for first, last in places[self.dropped :]],
        }
