"""How images are denoised, as one is asked for them: steps, guidance, rows per call of the denoiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from p2p.numbers import check_finite


@dataclass(frozen=True)
class Sampling:
    """How every image is denoised. Names and meanings as in diffusers: `guidance_scale` 1 is off."""

    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    guidance_rescale: float = 0.0  # phi of Lin et al. 2023, Sec. 3.4; 0 is off
    negative_prompt: str = ""
    max_batch: int = 64  # UNet rows per call; guidance takes two per image

    def __post_init__(self) -> None:
        check_finite("guidance_scale", self.guidance_scale, 1, " (1 is off)")
        for name, least in (("num_inference_steps", 1), ("max_batch", 2)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not value >= least:
                raise ValueError(f"{name}: {value!r} is not a whole number of at least {least}")
        rescale = self.guidance_rescale
        if isinstance(rescale, bool) or not isinstance(rescale, (int, float)) or not 0 <= rescale <= 1:
            raise ValueError(f"guidance_rescale: {rescale!r} is not a number in [0, 1] (0 is off)")
        if rescale and not self.guided:
            raise ValueError(f"guidance_rescale: {rescale!r} does nothing at guidance_scale 1")
        if not isinstance(self.negative_prompt, str):
            raise ValueError(f"negative_prompt: {self.negative_prompt!r} is not a text")

    @property
    def guided(self) -> bool:
        """Whether the prediction is guided."""
        return self.guidance_scale > 1

    def rows_per_state(self, guidance_embedded: bool) -> int:
        """Return how many rows of the denoiser a state takes; one where unconditional rows have no use.

        Raises ValueError for what only an unconditional row could do.
        """
        if guidance_embedded and (self.guidance_rescale or self.negative_prompt):
            name = "guidance_rescale" if self.guidance_rescale else "negative_prompt"
            raise ValueError(
                f"{name}: {getattr(self, name)!r} does nothing, as this model takes the guidance scale as an "
                "input, or none, and has no unconditional rows"
            )
        return 2 if self.guided and not guidance_embedded else 1


def with_fields(sampling: Sampling | None, given: Mapping[str, Any]) -> Sampling:
    """Return a sampling, or the default one, with fields changed. TypeError lists the fields there are."""
    names = [field.name for field in fields(Sampling)]
    if unknown := [name for name in given if name not in names]:
        raise TypeError(f"{unknown[0]}: no parameter, nor a field of Sampling: {', '.join(names)}")
    if not isinstance(sampling, Sampling | None):
        raise TypeError(
            f"sampling: {sampling!r} is no Sampling; its fields can be given by name, as in {names[0]}=20"
        )
    return replace(sampling or Sampling(), **given)


@dataclass
class Calls:
    """The calls of the denoiser: at most `max_rows` rows each, halved for good where memory runs out."""

    max_rows: int
    on_rows: Callable[[int], object] = lambda rows: None  # told the rows of each call that was made
