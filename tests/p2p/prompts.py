"""Prompts that the tests of alignment draw from, and their lengths in tokens."""

import random

SQUIRREL = "A painting of a squirrel eating a burger"
WORDS = [
    "a",
    "the",
    "red",
    "cat",
    "Cat",
    "cat,",
    "dog",
    "dog's",
    "squirrel",
    "chinchilla",
    "capybara",
    "axolotl",
]
WORDS += ["lasagne", "burger", "1984", "42nd", "ice-cream", "photorealistic", "house.", "on"]
PROMPTS = [
    SQUIRREL,
    "a cat, a dog and a cat",
    "the dog's ice-cream, isn't it?",
    "photo of 3 cats in 1984 (42nd street) at f/2.8",
    'a "quoted" axolotl -- photorealistic, 8k!',
    "Chinchilla VS Capybara",
]


def random_swaps(count, seed):
    rng = random.Random(seed)
    for _ in range(count):
        source = rng.choices(WORDS, k=rng.randint(1, 9))
        yield (
            " ".join(source),
            " ".join(rng.choice(WORDS) if rng.random() < 0.4 else word for word in source),
        )


def random_refinements(count, seed):
    rng = random.Random(seed)
    for _ in range(count):
        source = rng.choices(WORDS, k=rng.randint(2, 9))
        target = [word for word in source if rng.random() < 0.7] or source[:1]
        for _ in range(rng.randint(0, 3)):
            target.insert(rng.randint(0, len(target)), rng.choice(WORDS))
        yield " ".join(source), " ".join(target)


def length(prompt, tokenizer):
    return len(tokenizer(prompt)["input_ids"])
