"""Prompt-to-Prompt as its reference describes it, slow on purpose and independent of the engine.

Every attention layer forms its probability maps; a controller edits the conditional half of them; the maps of
all steps are kept for LocalBlend. One source and one target, one UNet call a step.
"""

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from tests.p2p.reference import Reference


@dataclass
class Settings:
    """One edit in the reference's terms. Windows are shares (start, end); words map to weights."""

    source: str
    target: str
    operator: str
    profile: str
    cross: dict[str, tuple[float, float]]
    itself: tuple[float, float]
    self_limit: int
    weights: dict[str, float] = field(default_factory=dict)
    blend: tuple[str, str] | None = None
    substruct: tuple[str, str] | None = None
    blend_start: float = 0.2
    threshold: tuple[float, float] = (0.3, 0.3)
    blend_side: int = 16


class Controller:
    """What the reference's AttentionControlEdit, AttentionReweight and LocalBlend do, on formed maps."""

    def __init__(self, settings: Settings, tokenizer, steps: int) -> None:
        self.settings, self.steps, self.step = settings, steps, 0
        self.reference = Reference(tokenizer)
        self.n = tokenizer.model_max_length
        self.kept: list[Tensor] = []  # this step's cross maps of the blend's layers
        self.sums: Tensor | None = None
        self.nearest = 1.0  # how near a blend value came to its threshold
        self.alpha = torch.zeros(steps + 1, self.n, dtype=torch.float64)
        default = settings.cross["default_"]
        for word, (start, end) in {"default_": default, **settings.cross}.items():
            columns = range(self.n) if word == "default_" else self.tokens(settings.target, word)
            for column in columns:
                self.alpha[:, column] = 0
                self.alpha[int(start * (steps + 1)) : int(end * (steps + 1)), column] = 1
        self.equalizer = torch.ones(self.n, dtype=torch.float64)
        for word, weight in settings.weights.items():
            self.equalizer[self.tokens(settings.target, word)] = weight

    def tokens(self, prompt: str, word: str) -> list[int]:
        words = prompt.split(" ")
        return [t for k, w in enumerate(words) if w == word for t in self.reference.word_tokens(prompt, k)]

    def aligned(self, source: Tensor, target: Tensor) -> Tensor:
        s = self.settings
        if s.operator == "replace":
            return torch.einsum("hpw,wn->hpn", source, self.replacement().double())
        mapper, alphas = self.refinement()
        return source[..., mapper] * alphas + target * (1 - alphas)

    def replacement(self) -> Tensor:
        s = self.settings
        mapper = self.reference.replacement(s.source, s.target)
        pairs = list(zip(s.source.split(" "), s.target.split(" "), strict=True))
        swapped = [k for k, (x, y) in enumerate(pairs) if x != y]
        if s.profile == "fixed" and swapped:
            i = self.reference.word_tokens(s.source, swapped[-1])[-1] + 1
            j = self.reference.word_tokens(s.target, swapped[-1])[-1] + 1
            mapper[:, j:] = 0
            mapper[i:] = 0
            x, y = self.lengths()
            for row in range(i, self.n):
                if row < x:  # a word or the end token: as far from its prompt's end as in the source
                    mapper[row, y - (x - row)] = 1
                elif row >= y:  # padding in both prompts
                    mapper[row, row] = 1
                else:  # padding whose position the target has a word at
                    mapper[row, y if y < self.n else self.n - 1] = 1
        return mapper

    def refinement(self) -> tuple[Tensor, Tensor]:
        s = self.settings
        mapper, alphas = self.reference.refinement(s.source, s.target)
        x, y = self.lengths()
        if s.profile == "fixed":
            for column in range(y, self.n):
                if x == self.n:  # the source has no padding to read
                    alphas[column] = 0
                elif column < x:  # the source has a word there
                    mapper[column] = x
                else:
                    mapper[column] = column
        return mapper, alphas.double()

    def lengths(self) -> tuple[int, int]:
        """Return how many tokens source and target have without padding, their end included."""
        source, target = (
            self.reference.tokenizer.encode(p) for p in (self.settings.source, self.settings.target)
        )
        return len(source), len(target)

    def __call__(self, maps: Tensor, is_cross: bool) -> Tensor:
        """Edit the conditional maps (2, heads, pixels, keys): row 0 is the source's."""
        source, target = maps[0], maps[1]
        if is_cross:
            alpha = self.alpha[self.step].to(maps.dtype)
            edited = self.aligned(source.double(), target.double()) * self.equalizer
            edited = edited.to(maps.dtype) * alpha + target * (1 - alpha)
            maps = torch.stack([source, edited])
            if maps.shape[2] == self.settings.blend_side**2:
                self.kept.append(maps)
            return maps
        start, end = (int(self.steps * share) for share in self.settings.itself)
        if start <= self.step < end and maps.shape[2] <= self.settings.self_limit:
            return torch.stack([source, source])
        return maps

    def end_of_step(self, latents: Tensor) -> Tensor:
        s = self.settings
        self.step += 1
        if s.blend is None:
            return latents
        step_maps = torch.stack(self.kept)
        self.kept = []
        self.sums = step_maps if self.sums is None else self.sums + step_maps
        if self.step <= int(s.blend_start * self.steps):
            return latents
        mask = self.area(s.blend, True, s.threshold[0], latents)
        if s.substruct is not None:
            mask = mask & ~self.area(s.substruct, False, s.threshold[1], latents)
        return latents[:1] + mask.to(latents.dtype) * (latents - latents[:1])

    def area(self, words: tuple[str, str], pool: bool, threshold: float, latents: Tensor) -> Tensor:
        assert self.sums is not None
        s, side = self.settings, self.settings.blend_side
        maps = []
        for row, prompt in enumerate((s.source, s.target)):
            columns = self.tokens(prompt, words[row])
            maps.append(self.sums[:, row, :, :, columns].sum(-1).mean((0, 1)).view(1, side, side))
        stacked = torch.stack(maps)
        if pool:
            stacked = max_pool2d(stacked, 3, 1, 1)
        stacked = interpolate(stacked, size=latents.shape[2:])
        stacked = stacked / stacked.amax((2, 3), keepdim=True)
        self.nearest = min(self.nearest, float((stacked - threshold).abs().min()))
        mask = stacked > threshold
        return mask[:1] | mask


class NaiveProcessor:
    """Attention with formed probabilities, handed to the controller."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        query, key, value = map(attn.head_to_batch_dim, (query, key, value))
        maps = (query @ key.transpose(1, 2) * attn.scale).softmax(-1)
        maps = maps.unflatten(0, (-1, attn.heads))
        edited = self.controller(maps[-2:], encoder_hidden_states is not None)
        maps = torch.cat([maps[:-2], edited])
        output = attn.batch_to_head_dim(maps.flatten(0, 1) @ value)
        return attn.to_out[1](attn.to_out[0](output))


def naive_latents(
    pipeline,
    settings: Settings,
    seed: int,
    steps: int,
    guidance: float,
    start: Tensor | None = None,
    put_back: list[Tensor] | None = None,
    within: Collection[str] | None = None,
) -> tuple[Tensor, Controller]:
    """Return the final latents (2, ...) of source and target, and the controller that edited them.

    `start` takes the place of the seed's noise; `put_back` holds what the source is corrected to at each
    step (PnP Inversion). `within` are the only layers whose maps are formed and edited.
    """
    unet = pipeline.unet
    controller = Controller(settings, pipeline.tokenizer, steps)

    def end_of_step(number: int, latents: Tensor) -> Tensor:
        if put_back is not None:
            offset = put_back[number] - latents[0]
            latents = torch.cat([latents[:1] + offset, latents[1:]])
        return controller.end_of_step(latents)

    original = dict(unet.attn_processors)
    edited = original if within is None else within
    formed = {name: NaiveProcessor(controller) for name in edited}
    unet.set_attn_processor({**original, **formed})
    prompts = [settings.source, settings.target]
    try:
        latents = _denoised(pipeline, prompts, [seed, seed], steps, guidance, start, end_of_step)
    finally:
        unet.set_attn_processor(original)
    return latents, controller


def uncontrolled_latents(
    pipeline, prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: float
) -> Tensor:
    """Return the final latents (prompts, ...) of each prompt from its seed's noise, with nothing edited."""
    return _denoised(pipeline, prompts, seeds, steps, guidance)


@torch.no_grad()
def _denoised(
    pipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    guidance: float,
    start: Tensor | None = None,
    end_of_step: Callable[[int, Tensor], Tensor] | None = None,
) -> Tensor:
    unet = pipeline.unet
    scheduler = copy.deepcopy(pipeline.scheduler)
    scheduler.set_timesteps(steps)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    shape = (1, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    noise = [torch.randn(shape, generator=g, dtype=unet.dtype) for g in generators]
    latents = torch.cat(noise) * scheduler.init_noise_sigma
    if start is not None:
        latents = start.expand(len(prompts), -1, -1, -1)
    texts = [*([""] * len(prompts) if guidance > 1 else []), *prompts]
    ids = pipeline.tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
    context = pipeline.text_encoder(ids).last_hidden_state
    kwargs = {"generator": generators} if "generator" in scheduler.step.__code__.co_varnames else {}
    for number, t in enumerate(scheduler.timesteps):
        rows = torch.cat([latents] * (len(texts) // len(prompts)))
        output = unet(scheduler.scale_model_input(rows, t), t, context).sample
        if guidance > 1:
            uncond, text = output.chunk(2)
            output = uncond + guidance * (text - uncond)
        latents = scheduler.step(output, t, latents, **kwargs).prev_sample
        if end_of_step is not None:
            latents = end_of_step(number, latents)
    return latents
