"""What groups of edits cost: the rows that the denoiser evaluates, shared as they are and one by one."""

from __future__ import annotations

from collections.abc import Sequence

from p2p.groups import Group, tree_start
from p2p.methods.flow_edit import difference_evaluations
from p2p.methods.uni_edit import fusion_evaluations
from p2p.sampling import Sampling
from p2p.tree import count_first_states, count_states
from p2p.upscaling import upscaled_states


def plan_evaluations(
    groups: Sequence[Group],
    calls: int,
    sampling: Sampling,
    guidance_embedded: bool = False,
    upscaler_calls: int = 0,
) -> int:
    """Return the number of UNet evaluations (rows) of `generate`, at `calls` calls a trajectory.

    It is exact, but for inversions that may stop early or are known already (see `Inversion.evaluations`),
    and without those of other pipelines.
    `guidance_embedded` is the model's; `upscaler_calls` is `calls` of its upscaler, 0 where it has none.
    """
    nodes = inversions = velocities = 0
    for group in groups:
        nodes += sum(
            calls - edit.start for edit in group.edits if edit.start is not None and not edit.along_flow
        )
        velocities += difference_evaluations(group.edits, calls, guidance_embedded)
        velocities += fusion_evaluations(group.edits, calls, guidance_embedded)
        if upscaler_calls:
            nodes += upscaler_calls * upscaled_states(group.trajectories())
        if tree := group.tree():
            start, apart = tree_start(group.inversion, sampling)
            states = count_states(tree, calls, start, apart)
            if inversion := group.inversion:
                states *= inversion.calls_per_state
                if inversion.first_calls:
                    states += inversion.first_calls * count_first_states(tree, calls, start, apart)
                inversions += inversion.evaluations(sampling)
            nodes += states
    return nodes * sampling.rows_per_state(guidance_embedded) + inversions + velocities


def unshared_evaluations(
    groups: Sequence[Group],
    calls: int,
    sampling: Sampling,
    guidance_embedded: bool = False,
    upscaler_calls: int = 0,
) -> int:
    """Return what the groups' edits would cost one at a time, each with a source of its own.

    The arguments are those of `plan_evaluations`. The two agree on a group of one edit that differs from its
    source at every step; an edit that begins as its source does shares those steps with it even there.
    """
    once = calls + upscaler_calls
    nodes = inversions = velocities = 0
    for group in groups:
        alone = once  # of what starts from the source's noise
        if inversion := group.inversion:
            steps = once - inversion.start(sampling.num_inference_steps)
            alone = steps * inversion.calls_per_state + inversion.first_calls
        for edit in group.edits:
            nodes += 0 if group.image and not edit.from_noise else alone
            if edit.along_flow:
                velocities += difference_evaluations([edit], calls, guidance_embedded)
                velocities += fusion_evaluations([edit], calls, guidance_embedded)
            elif edit.external is None:
                nodes += alone if edit.start is None else once - edit.start
            if group.inversion and edit.from_noise:
                inversions += group.inversion.evaluations(sampling)
    return nodes * sampling.rows_per_state(guidance_embedded) + inversions + velocities
