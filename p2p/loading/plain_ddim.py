"""What a plan asks of a DDIM scheduler, told from its config alone: importing diffusers takes seconds.

Of any other scheduler, and of a config that another version of diffusers wrote, only diffusers' own object
can tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

NAME = "DDIMScheduler"
FIXED = {
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "rescale_betas_zero_snr": False,
    "thresholding": False,
    "timestep_spacing": "leading",
    "trained_betas": None,
}
"""Settings with the values that latent diffusion has; with them, those of UNUSED do nothing."""
UNUSED = ("clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value")
BETAS = ("beta_start", "beta_end")
OTHERS = ("num_train_timesteps", "prediction_type", "set_alpha_to_one", "steps_offset")


@dataclass(frozen=True)
class PlainDDIM:
    """A DDIM scheduler with evenly spaced timesteps that count from 0 or 1, as latent diffusion has it.

    It makes one call a step and keeps nothing between steps, so that branches may part anywhere.
    """

    config: Mapping[str, Any]  # every setting of diffusers' class

    @classmethod
    def of(cls, name: object, config: Mapping[str, Any]) -> PlainDDIM | None:
        """Return the scheduler of a class name and a config, None where only diffusers can tell.

        A config that the installed version of diffusers wrote holds all settings there are, so that no
        default has to be known here.
        """
        own = {setting: value for setting, value in config.items() if not setting.startswith("_")}
        told = {setting: value for setting, value in config.items() if setting not in own}
        plain = (
            name == NAME
            and told == {"_class_name": NAME, "_diffusers_version": version("diffusers")}
            and own.keys() == {*FIXED, *UNUSED, *BETAS, *OTHERS}
            and {setting: own[setting] for setting in FIXED} == FIXED
            and all(type(own[setting]) is float for setting in (*UNUSED, *BETAS))
            and 0 < own["beta_start"] <= own["beta_end"] <= 0.02
            and all(type(own[setting]) is int for setting in ("num_train_timesteps", "steps_offset"))
            and 0 < own["num_train_timesteps"] <= 1000
            and own["steps_offset"] in (0, 1)
            and own["prediction_type"] in ("epsilon", "v_prediction")
            and type(own["set_alpha_to_one"]) is bool
        )
        return cls(own) if plain else None

    def calls(self, num_inference_steps: int) -> int | None:
        """Return how often one trajectory calls the denoiser, None where diffusers refuses so many steps."""
        trained = self.config["num_train_timesteps"]
        first = (num_inference_steps - 1) * (trained // num_inference_steps) + self.config["steps_offset"]
        return num_inference_steps if num_inference_steps <= trained and first < trained else None
