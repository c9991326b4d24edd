"""Flux.2's text: words among their template's tokens, padding on either side, what is refused."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from p2p import Flux2
from p2p.alignment import encode, refinement_mapper, replacement_mapper, word_tokens
from tests.p2p.families.tiny_flux2 import TEXT, ShortKlein, short_dev, short_klein

pytestmark = pytest.mark.xdist_group("flux2")

SIDE = 8
SOURCE = "a cat on a bench"


@pytest.fixture(scope="module")
def klein() -> Flux2:
    return short_klein()


@pytest.fixture(scope="module")
def dev() -> Flux2:
    return short_dev()


def seen_ids(model: Flux2, prompt: str) -> list[int]:
    """Return the ids that the text encoder is given."""
    seen: list[Tensor] = []
    inputs = model.pipeline.text_encoder.get_input_embeddings()
    hook = inputs.register_forward_hook(lambda _, args, output: seen.append(args[0]))
    try:
        assert model.encode_prompt(prompt)["encoder_hidden_states"].shape == (TEXT, 48)
    finally:
        hook.remove()
    return list(seen[0][0].tolist())


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (SOURCE, [[0], [1], [2], [3], [4]]),
        ("a chinchilla on a bench", [[0], [1, 2], [3], [4], [5]]),
        ("a {} dog", [[0], [1, 2, 3], [4]]),
    ],
)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["klein", "dev"])
def test_words_stand_where_the_encoder_has_them(
    family: str, side: str, prompt: str, words: list[list[int]], request: pytest.FixtureRequest
) -> None:
    """Klein's template has 3 tokens before the prompt and 9 after it, dev's 32 and 1."""
    model = request.getfixturevalue(family)
    before, after = {"klein": (3, 9), "dev": (32, 1)}[family]
    own = getattr(model.pipeline.tokenizer, "tokenizer", model.pipeline.tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own, "padding_side", side)
        [tokenizer] = type(model)(model.pipeline, SIDE, SIDE, 32, 32).tokenizers
        ids = seen_ids(model, prompt)
    count = before + words[-1][-1] + 1 + after
    padding = TEXT - count if side == "left" else 0
    assert word_tokens(prompt, tokenizer) == [[k + before + padding for k in one] for one in words]
    encoding = encode(prompt, tokenizer)
    special = encoding["special_tokens_mask"]
    assert special == [1] * (padding + before) + [0] * (words[-1][-1] + 1) + [1] * after
    assert ids == [*encoding["input_ids"], *[own.pad_token_id] * (TEXT - padding - count)]


def test_what_the_template_moves_is_refused(klein: Flux2, dev: Flux2) -> None:
    for model, prompt, message in (
        (klein, "\na cat", "shares a token with the text that the model puts around it"),
        (klein, " ".join(["a"] * (TEXT - 12)), None),
        (klein, " ".join(["a"] * (TEXT - 11)), f"has {TEXT + 1} tokens, allowed are {TEXT}"),
        (dev, " ".join(["a"] * (TEXT - 33)), None),
        (dev, " ".join(["a"] * (TEXT - 32)), f"has {TEXT + 1} tokens, allowed are {TEXT}"),
        (dev, "a [IMG] cat", r"prompt 'a \[IMG\] cat' is changed by the template"),  # which diffusers drops
    ):
        [tokenizer] = model.tokenizers
        with nullcontext() if message is None else pytest.raises(ValueError, match=message):
            encode(prompt, tokenizer)
    own = klein.pipeline.tokenizer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            own, "chat_template", own.chat_template.replace("message.content", "message.content | trim")
        )
        [changed] = ShortKlein(klein.pipeline, SIDE, SIDE, 32, 32).tokenizers
    with pytest.raises(ValueError, match="prompt ' a cat' is changed by the template"):
        encode(" a cat", changed)


def test_padding_on_the_left_keeps_its_place(dev: Flux2) -> None:
    """Words and template move with the end; padding reads its own place, or the last padding."""
    [tokenizer] = dev.tokenizers
    short, long = "a cat", "a red cat with a hat"  # 21 and 17 tokens of padding
    assert [encode(one, tokenizer)["left_padding"] for one in (short, long)] == [21, 17]
    mapper, alphas = refinement_mapper(short, long, tokenizer)
    assert mapper[:17].tolist() == list(range(17))
    assert mapper[17:49].tolist() == list(range(21, 53))  # the template
    assert mapper[49:].tolist() == [53, -1, 54, -1, -1, -1, 55]
    mapper, alphas = refinement_mapper(long, short, tokenizer)
    assert mapper[:21].tolist() == [*range(17), 16, 16, 16, 16]
    assert mapper[21:].tolist() == [*range(17, 50), 51, 55]
    assert alphas.all()
    two, three = "a cat", "a chinchilla"
    replaced = replacement_mapper(two, three, tokenizer)
    assert torch.equal(replaced.sum(1), torch.ones(TEXT))
    moved = replaced[:-3].argmax(1)
    assert moved.tolist() == [*range(20), 19, *range(20, 52)]
    assert replaced[54, 53:55].tolist() == [0.5, 0.5]
    back = replacement_mapper(three, two, tokenizer)
    assert back[:20].argmax(1).tolist() == list(range(20))
    assert float(back[:, 20].sum()) == 0  # padding where the longer source has its template
