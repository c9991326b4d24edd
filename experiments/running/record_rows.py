"""The records of a group's pictures: where the run keeps each of them, and what is told of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.datasets.pair import slug
from experiments.planning.plan import Branch, GroupPlan, Identity, Plan
from experiments.planning.setting_rows import labels
from p2p.sampling import Sampling
from results.store.picture_files import SUFFIXES, Digest
from results.store.run_folder import ideals_folder, pair_folder, picture_path


@dataclass(frozen=True)
class Recorded:
    """What the store holds of a picture when a call begins."""

    group: str
    image: str  # its path in the run folder, "" where it failed
    digest: Digest


@dataclass(frozen=True)
class RunInfo:
    """What every record of a run repeats, and what the run folder holds already."""

    run_dir: Path
    dataset: str
    model: str
    cache_dir: Path  # where inversions are kept
    starts: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    """By the step at which pictures start: its timestep, and the share of noise there (`noise_share`)."""
    recorded: Mapping[Identity, Recorded] = field(default_factory=dict)


NOWHERE = (math.nan, math.nan)


def first_step(picture: Branch, group: GroupPlan, sampling: Sampling) -> int | None:
    """Return the step at which a picture starts, from its source noised to there or from an inversion.

    None where it starts at the first step, from noise alone, and where another pipeline makes it.
    """
    steps, trajectory = sampling.num_inference_steps, picture.trajectory
    if trajectory.start is not None:
        return trajectory.start
    if group.inversion is None or not trajectory.from_noise:
        return None
    return group.inversion.start(steps) or None


@dataclass(frozen=True)
class RecordRows:
    """Makes the rows of one group's pictures, `GroupPlan.pictures`. Paths are inside the run folder."""

    group: GroupPlan
    plan: Plan
    info: RunInfo

    def path(self, picture: Branch) -> str:
        """Return where the run keeps a picture."""
        key = picture.key
        if picture.given:  # one file for all masks that it is judged by
            key = {
                "source": self.group.source_file_key,
                "reconstruction": self.group.reconstruction_file_key,
            }.get(picture.method, key)
        own = SUFFIXES[self.plan.image_format]
        suffix = self._source_suffix if picture.given and picture.method == "source" else own
        return picture_path(self._folder(picture), picture.method, key, picture.params, suffix)

    def source_path(self, picture: Branch) -> str:
        """Return where the run keeps the source of a picture."""
        key = self.group.source_file_key
        return picture_path(self._folder(picture), "source", key, suffix=self._source_suffix)

    @property
    def _source_suffix(self) -> str:
        """How the source is saved: a picture that was given stays as it is, which PNG keeps it."""
        return SUFFIXES["png" if self.group.image else self.plan.image_format]

    def mask_path(self, picture: Branch) -> str:
        """Return where the run keeps the mask of a picture's pair, "" where it has none.

        Named after the source's record key, which tells masks and models apart, as their images differ in
        size.
        """
        if not picture.mask_digest:
            return ""
        return picture_path(pair_folder(slug(picture.pair.id)), "mask", picture.source_record_key)

    def ideals_folder(self, picture: Branch) -> str:
        """Return the folder of the ideals of a picture's pair, in the model's size, "" where it has none."""
        if not picture.ideal_digest:
            return ""
        return ideals_folder(pair_folder(slug(picture.pair.id)), f"{picture.ideal_digest}-{self.plan.setup}")

    def made(
        self,
        picture: Branch,
        digest: Digest,
        seconds: float = 0.0,
        warnings: str = "",
        mask_digest: str = "",
    ) -> dict[str, Any]:
        """Return the row of a picture whose file, and the file of its mask, have these digests.

        It took `seconds`.
        """
        return {
            **self._row(picture),
            "image": self.path(picture),
            "image_sha256": digest.sha256,
            "image_bytes": digest.size,
            "mask_digest": mask_digest,
            "source_image": self.source_path(picture),
            "status": "ok",
            "warnings": warnings,
            "seconds": seconds,
        }

    def is_recorded(self, picture: Branch, digest: Digest) -> bool:
        """Say whether the store has a successful row of that picture's file."""
        before = self.info.recorded.get(picture.identity)
        return before is not None and before.image == self.path(picture) and before.digest == digest

    def failed(self, picture: Branch, error: str) -> dict[str, Any]:
        """Return the row of a picture that could not be made."""
        return {**self._row(picture), "status": "failed", "error": error}

    def _folder(self, picture: Branch) -> str:
        return pair_folder(slug(picture.pair.id), self.group.seed)

    def _row(self, picture: Branch) -> dict[str, Any]:
        group, sampling = self.group, self.plan.sampling
        steps, start = sampling.num_inference_steps, first_step(picture, group, sampling)
        denoised = start is not None and picture.method not in ("source", "ideal")
        timestep, noise = self.info.starts.get(start or 0, NOWHERE) if denoised else NOWHERE
        return {
            **labels(picture, self.info.dataset, self.info.model),
            # A picture that is made again keeps its place: each is recorded once.
            "group": before.group if (before := self.info.recorded.get(picture.identity)) else group.id,
            "setup": self.plan.setup,
            "source_prompt": picture.pair.source_prompt,
            "target_prompt": picture.pair.target_prompt,
            "seed": group.seed,
            "inversion": group.inversion.label if group.inversion else "",
            "effective_steps": steps - (start or 0),
            "num_inference_steps": steps,
            "guidance_scale": float(sampling.guidance_scale),
            "guidance_rescale": float(sampling.guidance_rescale),
            "start_timestep": timestep,
            "start_noise": noise,
            "mask": self.mask_path(picture),
            "ideal": self.ideals_folder(picture),
            "uses_mask": picture.uses_mask,
            "image": "",
            "image_sha256": "",
            "image_bytes": 0,
            "mask_digest": "",
            "source_image": "",
            "error": "",
            "warnings": "",
            "seconds": 0.0,
        }
