"""What a plan is made of: of every pair its picture, mask and ideal, and a trajectory for every method.

All that is wrong, of any pair and method, is told in one error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.datasets.pair import Pair, raise_problems
from experiments.inputs.ideals import ideal_digest
from experiments.inputs.masks import mask_digest, read_mask
from experiments.inputs.real_images import RealImage
from experiments.planning.model_facts import ModelFacts
from experiments.planning.plan import NamedMethod
from p2p.alignment import encode
from p2p.attention.single_layers import NO_LAYERS
from p2p.flow_solvers import flow_sigmas
from p2p.sampling import Sampling
from p2p.schedulers import check_start
from p2p.trajectory import NO_TEXT_QUERIES, EditRequest, Trajectory
from results.store.records import EFFECT_TYPES

if TYPE_CHECKING:
    from p2p.inversion import Inversion


@dataclass(frozen=True)
class PairInputs:
    """A pair, what was read for it, and how each method edits it."""

    pair: Pair
    image: RealImage | None
    mask_digest: str  # "" where there is none
    ideal_digest: str  # "" where there is none
    trajectories: tuple[Trajectory, ...]

    @property
    def judged_by(self) -> list[str]:
        """Mask and ideal as parts of the content key.

        They do not change the image, but they change its scores, and scores are stored by content key only.
        So an image judged by another mask must have another key.
        """
        mask = [self.mask_digest] if self.mask_digest else []
        return [*mask, *([f"ideal {self.ideal_digest}"] if self.ideal_digest else [])]


def read_inputs(
    pairs: Sequence[Pair],
    methods: Sequence[NamedMethod],
    model: ModelFacts,
    sampling: Sampling,
    inversions: Sequence[Inversion | None],
) -> list[PairInputs]:
    """Read mask, ideal and picture of every pair, and make its trajectories.

    Raises one ValueError that lists everything wrong, of any pair and method.
    """
    problems = [*_inversion_problems(inversions, pairs, model, sampling)]
    problems += _prompt_problems([sampling.negative_prompt, *(p.source_prompt for p in pairs)], model)
    inputs = [_read(pair, methods, model, sampling, None in inversions, problems) for pair in pairs]
    problems += _unused_weights(methods, inputs)
    raise_problems(dict.fromkeys(problems), "the plan")
    return inputs


def _read(
    pair: Pair,
    methods: Sequence[NamedMethod],
    model: ModelFacts,
    sampling: Sampling,
    not_inverted: bool,
    problems: list[str],
) -> PairInputs:
    """Return one pair's inputs. What is wrong with the pair is added to `problems`, and left out of them."""
    image, mask, ideal = None, "", ""
    try:
        image = RealImage.of(pair.image) if pair.image else None
        ideal = ideal_digest(pair.ideal) if pair.ideal else ""
    except ValueError as error:
        problems.append(f"pair {pair.id!r}: {error}")
    try:
        mask = mask_digest(read_mask(pair.mask, pair.id)) if pair.mask else ""
    except ValueError as error:
        problems.append(str(error))
    if pair.image is not None and model.upscaler_calls:
        problems.append(
            f"pair {pair.id!r}: has an image, which cannot be the source of a model with an upscaler, "
            "allowed are generated sources"
        )
    request = EditRequest(
        pair.source_prompt, pair.target_prompt, pair.weights, pair.blend_words, pair.instruction
    )
    steps, trajectories = sampling.num_inference_steps, []
    for named in methods:
        try:
            trajectory = named.method.trajectory(request, model.tokenizers, steps)
            check_start(trajectory.start or 0, model.calls, steps)
        except ValueError as error:
            problems.append(f"pair {pair.id!r}, {named.name}: {error}")
            continue
        if unknown := sorted(set(trajectory.record) - set(EFFECT_TYPES)):
            problems.append(f"{named.name}: records {unknown}, allowed are {', '.join(EFFECT_TYPES)}")
        problems += [f"{named.name}: {problem}" for problem in _layer_problems(trajectory, model)]
        if trajectory.along_flow:
            try:
                flow_sigmas(model.scheduler)
            except ValueError as error:
                problems.append(f"{named.name}: {error}")
        if pair.image is not None and not_inverted and trajectory.from_noise:
            problems.append(
                f"pair {pair.id!r}, {named.name}: starts from the noise of its image, which only an "
                "inversion finds, such as inversion=direct"
            )
        trajectories.append(trajectory)
    return PairInputs(pair, image, mask, ideal, tuple(trajectories))


def _prompt_problems(prompts: Sequence[str], model: ModelFacts) -> Iterator[str]:
    """Yield what keeps prompts from being encoded."""
    for prompt in dict.fromkeys(prompts):
        try:
            for tokenizer in model.tokenizers:
                encode(prompt, tokenizer)
        except ValueError as error:
            yield str(error)


def _inversion_problems(
    inversions: Sequence[Inversion | None], pairs: Sequence[Pair], model: ModelFacts, sampling: Sampling
) -> Iterator[str]:
    """Yield what keeps the inversions from being made."""
    for inversion in filter(None, inversions):
        for pair in pairs:
            if pair.image is None:
                yield (
                    f"pair {pair.id!r}: has no image that {inversion.name} could invert, "
                    "allowed is inversion=none"
                )
        try:
            inversion.check(model.scheduler, sampling, model.guidance_embedded)
        except ValueError as error:
            yield f"{inversion.name}: {error}"


def _layer_problems(trajectory: Trajectory, model: ModelFacts) -> Iterator[str]:
    """Yield what keeps an edit from taking in chosen layers and heads. A UNet's are counted once loaded."""
    for wanted in trajectory.layers:
        if wanted.projections is None and not model.single_layers:
            yield NO_LAYERS
        elif wanted.projections is not None:
            try:
                wanted.check_blocks(model.joint_blocks)
            except ValueError as error:
                yield str(error)
    if trajectory.scores and not model.joint_blocks:
        yield NO_TEXT_QUERIES
    for places in trajectory.places:
        try:
            places.check(model.joint_blocks, model.layer_groups)
        except ValueError as error:
            yield str(error)
    for heads in trajectory.heads:
        try:
            heads.check(model.heads)
        except ValueError as error:
            yield str(error)


def _unused_weights(methods: Sequence[NamedMethod], inputs: Sequence[PairInputs]) -> Iterator[str]:
    """Yield a problem for each method with a factor for all weights (`weights: 2`) if no pair has weights."""
    if not any(one.pair.weights for one in inputs):
        for named in methods:
            if isinstance(named.params.get("weights"), (int, float)):
                yield f"{named.name}: weights = {named.params['weights']}, but no pair re-weights a word"
