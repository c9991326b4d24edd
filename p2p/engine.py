"""Groups of edits in, images out, everything shared that can be.

`Group` (groups.py) -> where its source starts (source_path.py), inverted where it is a real image
(inversion/) -> tree of states (tree.py) -> one batched loop (denoise.py) -> images, from which SDEdit starts,
which an upscaler enlarges (upscaling.py), and which other pipelines edit (methods/external.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from p2p.denoise import denoise
from p2p.denoiser_hooks import check_hooks
from p2p.families.model import Model
from p2p.flow_solvers import flow_sigmas
from p2p.groups import SOURCE, Edited, Group, tree_start
from p2p.loading.pipeline_spec import Pipelines
from p2p.methods.external import carry_out
from p2p.methods.flow_edit import DifferenceEdit, edited_by_differences
from p2p.methods.prompt_to_prompt import check_substruct_words
from p2p.methods.uni_edit import FusionEdit, edited_by_fusion
from p2p.pictures import to_rgb, to_tensor, upright
from p2p.prepared import check_injections
from p2p.sampling import Calls, Sampling, with_fields
from p2p.schedulers import check_start, noised
from p2p.source_path import SourcePath
from p2p.trajectory import EditRequest, Method, Trajectory
from p2p.tree import Node, build_tree
from p2p.upscaling import upscaled_latents
from p2p.word_maps import WordMaps, layer_group

if TYPE_CHECKING:
    from p2p.inversion import Inversion


@torch.no_grad()
def generate(
    model: Model,
    groups: Sequence[Group],
    sampling: Sampling,
    calls: Calls | None = None,
    paths: Sequence[SourcePath | None] | None = None,
    pipelines: Pipelines | None = None,
) -> list[Edited]:
    """Return the images of the groups, denoised in lockstep in calls of at most `sampling.max_batch` rows.

    `calls` is told of each call, and keeps what memory allows from one batch of groups to the next. `paths`
    are the groups' `source_paths`, where they are known; generated sources draw from those they are given.
    `pipelines` keeps loaded what edits by other pipelines ask for; they are made one at a time, after all
    else. Raises ValueError for a real image that has not the model's size or is not in [0, 1], or where the
    model has an upscaler.

    A row never reads another row but its own source, so the source does not depend on the edits that ride
    along, up to rounding: a matrix product over the batch's rows alone (the time embedding's), and a
    convolution of a single row, sum in another order at other batch sizes. Measured on the CPU over 6 steps,
    embedded model: latents differ by at most 4e-5 in float32 and 2e-13 in float64. Bit for bit where the
    source has a call of its own, with guidance `max_batch=2`. Untrained, sharp weights may amplify a rounding
    to 3e-2 in float32.
    """
    calls = calls or Calls(sampling.max_batch)
    paths = source_paths(model, groups, sampling, calls) if paths is None else paths
    images = _from_noise(model, groups, sampling, calls, paths)
    real = [g for g, group in enumerate(groups) if group.image]
    reconstructions = {g: images[g, SOURCE] for g in real if (g, SOURCE) in images}
    images |= {(g, SOURCE): _real(model, groups[g]) for g in real}
    images |= _from_sources(model, groups, images, sampling, calls)
    images |= _along_flow(model, groups, images, sampling, calls)
    if model.upscaler is not None:
        generators = [path.generator for path in paths if path and path.generator]
        images = upscale(model.upscaler, groups, images, sampling, calls, generators)
    images |= _by_pipelines(groups, images, sampling, pipelines or Pipelines(model.device))
    edited = [tuple(images[g, i] for i in range(len(group.edits))) for g, group in enumerate(groups)]
    return [Edited(images[g, SOURCE], edited[g], reconstructions.get(g)) for g in range(len(groups))]


@torch.no_grad()
def upscale(
    upscaler: Model,
    groups: Sequence[Group],
    images: Mapping[tuple[int, int], Tensor],
    sampling: Sampling,
    calls: Calls | None = None,
    generators: Sequence[torch.Generator] | None = None,
) -> dict[tuple[int, int], Tensor]:
    """Return images by (group, edit), `SOURCE` included, enlarged under the groups' own injections.

    The groups' windows may be others than those of the base stage; the edits of other pipelines are left out.
    Without `generators`, which go on from the base stage, each group's starts from its seed.
    """
    generators = generators or [torch.Generator().manual_seed(group.seed) for group in groups]
    calls = calls or Calls(sampling.max_batch)
    trees = [group.trajectories() for group in groups]
    small = [torch.stack([images[g, branch - 1] for branch in tree]) for g, tree in enumerate(trees)]
    latents = upscaled_latents(upscaler, trees, small, sampling, calls, generators)
    large: dict[tuple[int, int], Tensor] = {}
    for g, (tree, rows) in enumerate(zip(trees, latents, strict=True)):
        large |= {(g, b - 1): image for b, image in zip(tree, upscaler.decode(rows), strict=True)}
    return large


def edit(
    model: Model,
    source_prompt: str,
    edits: Sequence[tuple[str, Method]],
    seed: int = 0,
    sampling: Sampling | None = None,
    image: Tensor | Image.Image | None = None,
    inversion: Inversion | None = None,
    instruction: str = "",
    weights: Mapping[str, float] | None = None,
    blend_words: tuple[str, str] | None = None,
    **sampling_fields: Any,
) -> Edited:
    """Return the image of a prompt and a seed, and its edits, each a target prompt and a method.

    With an `image`, whose caption the prompt is, it is edited by way of its `inversion`: (3, height, width)
    in [0, 1] or a picture of Pillow's, which is made upright and RGB (`p2p.pictures`), with a warning where
    that changes it. `instruction` is for methods that follow one. `weights`, factors of words of the target
    prompts, and `blend_words`, of the source prompt and of the target prompts, are asked of every edit.
    `sampling_fields` are those of `Sampling`, as in `num_inference_steps=20`, in place of `sampling`'s own.
    """
    sampling = with_fields(sampling, sampling_fields)
    trajectories = []
    for target, method in edits:
        request = EditRequest(source_prompt, target, weights or {}, blend_words, instruction)
        check_substruct_words(method, request)
        trajectories.append(method.trajectory(request, model.tokenizers, sampling.num_inference_steps))
    if isinstance(image, Image.Image):
        turned, notes = upright(image)
        picture, changed = to_rgb(turned)
        for told in (*notes, *changed):
            warnings.warn(f"image: {told}", stacklevel=2)
        image = to_tensor(picture)
    elif not isinstance(image, Tensor | None):
        raise TypeError(f"image: is {type(image).__name__}, allowed is a tensor or a picture of Pillow's")
    given = image
    real = (lambda: given) if given is not None else None
    return generate(model, [Group(source_prompt, seed, tuple(trajectories), real, inversion)], sampling)[0]


@torch.no_grad()
def tree_latents(
    model: Model,
    groups: Sequence[Group],
    sampling: Sampling,
    calls: Calls | None = None,
    paths: Sequence[SourcePath | None] | None = None,
) -> dict[tuple[int, int], Tensor]:
    """Return final latents by (group, branch) of all that starts from the source's noise.

    Branch 0 is the source, branch i + 1 the group's edit i. `paths` are as in `generate`.
    """
    calls = calls or Calls(sampling.max_batch)
    paths = source_paths(model, groups, sampling, calls) if paths is None else paths
    found: dict[tuple[int, int], Tensor] = {}
    for numbers in _by_inversion(groups).values():
        alike = [groups[g] for g in numbers]
        nodes, latents, _ = denoise_tree(model, alike, sampling, calls, [paths[g] for g in numbers])
        for node, row in zip(nodes, latents, strict=True):
            found |= {(numbers[node.group], branch): row for branch in node.branches}
    return found


@torch.no_grad()
def denoise_tree(
    model: Model,
    groups: Sequence[Group],
    sampling: Sampling,
    calls: Calls | None = None,
    paths: Sequence[SourcePath | None] | None = None,
) -> tuple[list[Node], Tensor, WordMaps]:
    """Return the last nodes, their latents, and the maps that their trajectories asked for.

    All groups are generated, or all have one inversion. `paths` are as in `generate`.
    """
    calls = calls or Calls(sampling.max_batch)
    paths = source_paths(model, groups, sampling, calls) if paths is None else paths
    scheduler = model.new_scheduler(sampling.num_inference_steps)
    trees = [group.tree() for group in groups]
    levels = _levels(trees, len(scheduler.timesteps), groups[0].inversion, sampling)
    sources = [path for path in paths if path is not None]
    latents, maps = denoise(model, sources, levels, scheduler, sampling, calls)
    return levels[-1], latents, maps


def check_edits(model: Model, edits: Iterable[Trajectory]) -> None:
    """Raise ValueError where the model has not the layers that edits take from or read, or not the heads.

    So it does where steps of its denoiser would not be computed whole. It is asked before an image is
    inverted, and of both stages before the first.
    """
    edits = list(edits)
    injections = {id(one): one for edit in edits for one in edit.injections if one}.values()
    read = {(one.layers, one.heads) for edit in edits for one in (edit.blend, edit.area) if one}
    for stage in filter(None, (model, model.upscaler)):
        check_hooks(stage.denoiser)
        check_injections(injections, stage)
        for places, heads in read:
            if places:
                stage.layers_at(places)
            layers = layer_group(places.key if places else f"{stage.blend_side}", stage).layers
            if heads:
                stage.check_heads(heads, layers)


@torch.no_grad()
def source_paths(
    model: Model, groups: Sequence[Group], sampling: Sampling, calls: Calls | None = None
) -> list[SourcePath | None]:
    """Return what each group's source starts from: its seed's noise, or what its image's inversion finds.

    None where no edit starts from there. Raises ValueError where an image has no inversion or not the model's
    size, where the scheduler or the model cannot be inverted, or has not the layers that an edit takes from.
    """
    calls = calls or Calls(sampling.max_batch)
    check_edits(model, [edit for group in groups for edit in group.edits])
    paths: list[SourcePath | None] = [None] * len(groups)
    scheduler = model.new_scheduler(sampling.num_inference_steps)
    if any(edit.along_flow for group in groups for edit in group.edits):
        flow_sigmas(scheduler)
    for inversion, numbers in _by_inversion(groups).items():
        generators = [torch.Generator().manual_seed(groups[g].seed) for g in numbers]
        if inversion is None:
            noises = model.draw_noise(generators) * getattr(scheduler, "init_noise_sigma", 1.0)
            found = [SourcePath(noise, generator=g) for noise, g in zip(noises, generators, strict=True)]
        else:
            inversion.check(scheduler, sampling, model.guidance_embedded)
            latents = model.encode(torch.stack([_real(model, groups[g]) for g in numbers]))
            prompts = [groups[g].source_prompt for g in numbers]
            found = inversion.invert(model, latents, prompts, sampling, generators, calls)
        for g, path in zip(numbers, found, strict=True):
            paths[g] = path
    return paths


def _by_inversion(groups: Sequence[Group]) -> dict[Inversion | None, list[int]]:
    """Return the numbers of the groups that need their source's noise, by how it is found."""
    numbers: dict[Inversion | None, list[int]] = {}
    for g, group in enumerate(groups):
        if group.tree():
            if (group.image is None) != (group.inversion is None):
                raise ValueError(
                    f"group {group.source_prompt!r}: an image and an inversion go together, allowed is to "
                    "give both, or neither"
                )
            numbers.setdefault(group.inversion, []).append(g)
    return numbers


def _levels(
    trees: Sequence[Mapping[int, Trajectory]], calls: int, inversion: Inversion | None, sampling: Sampling
) -> list[list[Node]]:
    """Return the nodes of each step of groups whose sources are found in one way."""
    start, apart = tree_start(inversion, sampling)
    return build_tree(trees, calls, start, range(len(trees)) if apart else ())


def _real(model: Model, group: Group) -> Tensor:
    assert group.image is not None
    if model.upscaler is not None:
        raise ValueError(
            f"image of {group.source_prompt!r}: cannot be the source of a model with an upscaler, allowed is "
            "a generated source"
        )
    image = group.image()
    if image.shape != (3, *model.image_size):
        raise ValueError(
            f"image of {group.source_prompt!r}: has shape {tuple(image.shape)}, allowed is "
            f"{(3, *model.image_size)}"
        )
    if not image.is_floating_point():
        raise ValueError(
            f"image of {group.source_prompt!r}: is {image.dtype}, allowed is floating point in [0, 1]"
        )
    low, high = image.aminmax()
    if not (low >= 0 and high <= 1):  # nor where one is not a number
        raise ValueError(
            f"image of {group.source_prompt!r}: has values from {low:g} to {high:g}, allowed is [0, 1]"
        )
    return image.float().cpu()


def _from_noise(
    model: Model,
    groups: Sequence[Group],
    sampling: Sampling,
    calls: Calls,
    paths: Sequence[SourcePath | None],
) -> dict[tuple[int, int], Tensor]:
    """Return the images by (group, edit) that start from the source's noise, and under `SOURCE` its own."""
    latents = tree_latents(model, groups, sampling, calls, paths)
    if not latents:
        return {}
    images = model.decode(torch.stack(list(latents.values())))
    return {(g, branch - 1): image for (g, branch), image in zip(latents, images, strict=True)}


def _from_sources(
    model: Model,
    groups: Sequence[Group],
    images: Mapping[tuple[int, int], Tensor],
    sampling: Sampling,
    calls: Calls,
) -> dict[tuple[int, int], Tensor]:
    """Return SDEdit's images by (group, edit), given every group's `SOURCE`; all of one start go together."""
    by_start: dict[int, list[tuple[int, int, str]]] = {}
    for g, group in enumerate(groups):
        for i, edit in enumerate(group.edits):
            if edit.start is not None and not edit.along_flow:
                by_start.setdefault(edit.start, []).append((g, i, edit.prompt))
    if not by_start:
        return {}
    made: dict[tuple[int, int], Tensor] = {}
    encoded = model.encode(torch.stack([images[g, SOURCE] for g in range(len(groups))]))
    for start, rows in by_start.items():
        scheduler = model.new_scheduler(sampling.num_inference_steps)
        check_start(start, len(scheduler.timesteps), sampling.num_inference_steps)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(start)
        # One draw per group, not the source's own x_T: SDEdit does not know the source's noise.
        generators = [torch.Generator().manual_seed(derived_seed(groups[g].seed)) for g, _, _ in rows]
        noise = model.draw_noise(generators)
        timesteps = scheduler.timesteps[start:]
        latents = encoded[[g for g, _, _ in rows]]
        latents = noised(scheduler, latents, noise, timesteps[:1].repeat(len(rows)))
        level = [Node(n, n, prompt, None, (0,)) for n, (_, _, prompt) in enumerate(rows)]
        levels = [level] * len(timesteps)
        starts = [
            SourcePath(row, start, generator) for row, generator in zip(latents, generators, strict=True)
        ]
        latents, _ = denoise(model, starts, levels, scheduler, sampling, calls)
        made |= {(g, i): image for (g, i, _), image in zip(rows, model.decode(latents), strict=True)}
    return made


def _along_flow(
    model: Model,
    groups: Sequence[Group],
    images: Mapping[tuple[int, int], Tensor],
    sampling: Sampling,
    calls: Calls,
) -> dict[tuple[int, int], Tensor]:
    """Return FlowEdit's and Uni-Edit's images by (group, edit), given every group's `SOURCE`.

    FlowEdit draws as SDEdit does.
    """
    edits = {(g, i): edit for g, group in enumerate(groups) for i, edit in enumerate(group.edits)}
    moved = {place: DifferenceEdit(place[0], edit) for place, edit in edits.items() if edit.difference}
    mixed = {place: FusionEdit(place[0], edit) for place, edit in edits.items() if edit.fusion}
    if not moved and not mixed:
        return {}
    encoded = model.encode(torch.stack([images[g, SOURCE] for g in range(len(groups))]))
    made: dict[tuple[int, int], Tensor] = {}
    if moved:
        seeds = [derived_seed(group.seed) for group in groups]
        latents = edited_by_differences(model, [*moved.values()], encoded, seeds, sampling, calls)
        made |= zip(moved, model.decode(latents), strict=True)
    if mixed:
        latents = edited_by_fusion(model, [*mixed.values()], encoded, sampling, calls)
        made |= zip(mixed, model.decode(latents), strict=True)
    return made


def _by_pipelines(
    groups: Sequence[Group],
    images: Mapping[tuple[int, int], Tensor],
    sampling: Sampling,
    pipelines: Pipelines,
) -> dict[tuple[int, int], Tensor]:
    """Return the images by (group, edit) that other pipelines make of every group's `SOURCE`.

    Like SDEdit they draw from `derived_seed`: from the group's own seed a pipeline of the model's latent
    shape would start at the very noise that a generated source was made of, which no real image has.
    """
    return {
        (g, i): carry_out(edit.external, images[g, SOURCE], derived_seed(group.seed), sampling, pipelines)
        for g, group in enumerate(groups)
        for i, edit in enumerate(group.edits)
        if edit.external
    }


def derived_seed(seed: int) -> int:
    """Return SDEdit's noise seed: a function of the seed, independent of the source's own noise."""
    return (seed * 6364136223846793005 + 1442695040888963407) % 2**63
