"""What a world's denoiser is trained for: denoising, and that words attend to what they are about."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from experiments.embedded.examples import Examples
from experiments.embedded.recorded_attention import RecordingProcessor, Taken, grounding_loss, sink_loss
from experiments.embedded.training import mixed_precision

CAPTION_DROPOUT = 0.1
THING_WEIGHT = (
    3  # of the error where a thing is, over that of the place: things are small and hold the detail
)
TAKEN_FROM = 200  # maps are taken at timesteps from here on: edits inject in the first 80 % of their steps


def min_snr(scheduler: DDIMScheduler, timesteps: Tensor) -> Tensor:
    """Return the weights of a batch's errors of noise, min-SNR with gamma 5 (Hang et al. 2023)."""
    alphas = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    snr = alphas / (1 - alphas)
    return snr.clamp(max=5) / snr


@dataclass
class Objective:
    """The loss of a batch: min-SNR denoising, thing-weighted, and losses on where cross-attention goes.

    Everything is on one device. `cross` are the denoiser's processors of cross-attention; `empty` (1, tokens)
    is the empty caption, `idle` (vocabulary,) what `idle_tokens` returns. A weight of 0 leaves a loss out.
    """

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    cross: Sequence[RecordingProcessor]
    scheduler: DDIMScheduler
    empty: Tensor
    idle: Tensor
    bf16: bool
    subjects: int = 2  # of a scene's named words, the first are the things whose pixels weigh more
    thing_weight: float = THING_WEIGHT
    grounding: float = 0.03  # beside a denoising loss of about 0.1
    sink: float = 0.03
    sink_share: float = 0.1

    def __call__(
        self, batch: Examples, noise: Tensor, timesteps: Tensor, dropped: Tensor, taking: Tensor
    ) -> dict[str, Tensor]:
        """Return the losses by name.

        `dropped` (batch,) bool: the caption is left out. `taking` (k,): rows whose cross-attention is taken
        from the other caption of their scene on the same noisy latents, which makes up no gradient.
        """
        ids = torch.where(dropped[:, None], self.empty, batch.ids)
        clean = batch.latents.float()
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        if len(taking):
            self._take(noisy[taking], timesteps[taking], batch, taking)
        with mixed_precision(clean.device.type, self.bf16):
            prediction = self.unet(noisy, timesteps, self.text_encoder(ids).last_hidden_state).sample
        for processor in self.cross:
            processor.taken = None
        weight = min_snr(self.scheduler, timesteps)
        told = (1 - timesteps / 1000)[:, None]
        pointed = (told / 0.4).clamp(max=1)  # in pure noise there is nothing to point at
        masks = batch.covered.float() / 16
        emphasis = 1 + self.thing_weight * told[..., None] * masks[:, : self.subjects].sum(
            1
        )  # (batch, 16, 16)
        error = (prediction.float() - noise).square().mean(1) * emphasis
        losses = {"denoising": (error.mean((1, 2)) * weight).mean()}
        maps = [processor.probabilities for processor in self.cross]
        if self.grounding:
            where = batch.tokens * ~dropped[:, None]
            grounded = [(grounding_loss(m, where, masks) * pointed).mean() for m in maps]
            losses["grounding"] = self.grounding * torch.stack(grounded).mean()
        if self.sink:
            sinks = [sink_loss(m, self.idle[ids], self.sink_share).mean() for m in maps]
            losses["sink"] = self.sink * torch.stack(sinks).mean()
        return losses

    @torch.no_grad()
    def _take(self, noisy: Tensor, timesteps: Tensor, batch: Examples, taking: Tensor) -> None:
        """Let the chosen rows take the maps of their scene's other caption in the next call."""
        for processor in self.cross:
            processor.keep_maps = True
        # An autocast of its own: what is cast without gradient must not serve the call that needs one.
        with mixed_precision(noisy.device.type, self.bf16):
            self.unet(noisy, timesteps, self.text_encoder(batch.other_ids[taking]).last_hidden_state)
        for processor in self.cross:
            assert processor.maps is not None
            processor.taken = Taken(taking, processor.maps, batch.mapper[taking])
            processor.keep_maps, processor.maps = False, None


@dataclass(frozen=True)
class Draw:
    """What is drawn for one step. Rows are stratified in time: row i's timestep is in the i-th part."""

    noise: Tensor
    timesteps: Tensor
    dropped: Tensor  # (batch,) bool
    taking: Tensor  # (k,) rows that take maps; none that is dropped


def draw_step(batch_size: int, taken_share: float, seed: int, device: str) -> Draw:
    """Draw noise, timesteps, dropped captions and the rows that take another caption's maps, by the seed."""
    rng = torch.Generator().manual_seed(seed)
    dropped = torch.rand(batch_size, generator=rng) < CAPTION_DROPOUT
    stratum = (torch.arange(batch_size) + torch.rand(batch_size, generator=rng)) / batch_size
    timesteps = (stratum * 1000).long().clamp(max=999)
    taking = torch.rand(batch_size, generator=rng) < taken_share
    taking &= ~dropped & (timesteps >= TAKEN_FROM)
    shape, on_device = (batch_size, 4, 16, 16), torch.Generator(device).manual_seed(seed)
    return Draw(
        noise=torch.randn(shape, generator=on_device, device=device),
        timesteps=timesteps.to(device),
        dropped=dropped.to(device),
        taking=taking.nonzero().flatten().to(device),
    )
