"""One edit in a process of its own: `python -m experiments.bench.edit ENGINE SHAPES DEVICE CLOCK`.

ENGINE is `plain` (diffusers' pipeline, the same two prompts, no control), `engine` or `materialised`
(naive.py); SHAPES a name of shapes.py or flow_shapes.py; CLOCK `wall` or `own`. Each line of standard input
is a JSON object `{"operator", "side", "guidance"}`, answered by one with seconds, bytes (peak above what the
loaded pipeline holds) and the gauge. What is measured ends with the latents: decoding is the same for all,
and would hide what the rest takes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, TypeAlias

import torch
from diffusers import (
    FluxPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)

from experiments.bench import naive
from experiments.bench.flow_shapes import FLOW_SHAPES, flow_model_at, random_flow_pipeline
from experiments.bench.measuring import Clock, held_memory, peak_memory
from experiments.bench.shapes import SHAPES, model_at, random_pipeline, xl_model_at
from p2p import EditRequest, Group, Model, Projections, PromptToPrompt, Sampling
from p2p.engine import tree_latents
from p2p.trajectory import Method

SOURCE = "a cat sitting on a bench"
TARGETS = {"replace": "a dog sitting on a bench", "refine": "a cat with a hat sitting on a bench"}
WARM_UP_SIDE = 8
# glibc keeps what is freed below a threshold that moves, and the peak then tells of the heap's gaps: by 20 %
# from one run to the next. With this, what counts is the tensors alive.
RETURNED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": str(2**18)}

Job = dict[str, Any]


Flow: TypeAlias = StableDiffusion3Pipeline | FluxPipeline
Pipeline: TypeAlias = StableDiffusionPipeline | StableDiffusionXLPipeline | Flow


def run(engine: str, pipeline: Pipeline, job: Job) -> torch.Tensor:
    """Denoise source and target, everything injected at every step; return the latents (2, ...).

    The job's `steps` are one unless given. `few_blocks` is "maps" or "projections" where an edit of a
    transformer is made in its shapes' injected blocks alone, named in `blocks`.
    """
    sampling = Sampling(job.get("steps", 1), job["guidance"])
    model: Model
    if isinstance(pipeline, FluxPipeline | StableDiffusion3Pipeline):
        model = flow_model_at(pipeline, job["side"])
    else:
        xl = isinstance(pipeline, StableDiffusionXLPipeline)
        model = (xl_model_at if xl else model_at)(pipeline, job["side"])
    target = TARGETS[job["operator"]]
    if engine == "plain":
        return pipeline(
            [SOURCE, target],
            height=model.height,
            width=model.width,
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
            generator=[torch.Generator().manual_seed(0) for _ in range(2)],
            output_type="latent",
        ).images
    method: Method = PromptToPrompt(
        operator=job["operator"], tau=0.0, self_replace_steps=1.0, blocks=job.get("blocks")
    )
    if job.get("few_blocks") == "projections":
        method = Projections(1.0, job["blocks"])
    request = EditRequest(SOURCE, target)
    edit = method.trajectory(request, model.tokenizers, sampling.num_inference_steps)
    if engine == "materialised":
        return naive.edit_latents(model, SOURCE, edit, 0, sampling)
    latents = tree_latents(model, [Group(SOURCE, 0, (edit,))], sampling)
    return torch.stack([latents[0, 0], latents[0, 1]])


def answer(engine: str, pipeline: Pipeline, clock: Clock, loaded: int, job: Job) -> dict[str, Any]:
    """Return how long one edit takes, and its peak memory above the `loaded` weights' bytes."""
    took: list[float] = []

    def timed() -> None:
        took.append(clock.seconds(lambda: run(engine, pipeline, job)))

    peak, gauge = peak_memory(timed, clock.device)
    return {"seconds": took[0], "bytes": peak - loaded, "gauge": gauge}


def serve(engine: str, shapes: str, device: str, clock: str, jobs: IO[str], answers: IO[str]) -> None:
    """Load, say so, and answer jobs until there are no more."""
    flow = FLOW_SHAPES.get(shapes)
    pipeline: Pipeline
    pipeline = random_flow_pipeline(flow, device) if flow else random_pipeline(SHAPES[shapes], device)
    timer = Clock(torch.device(device), clock == "own")
    for operator in TARGETS:  # what is imported or set up once is no part of an edit
        run(engine, pipeline, {"operator": operator, "side": WARM_UP_SIDE, "guidance": 7.5})
    loaded = held_memory(timer.device)
    print(json.dumps({"ready": engine}), file=answers, flush=True)
    for line in jobs:
        job: Job = json.loads(line)
        if flow and "few_blocks" in job:
            job["blocks"] = flow.injected
        asked = job.get("engine", engine)
        print(json.dumps(answer(asked, pipeline, timer, loaded, job)), file=answers, flush=True)


@contextmanager
def process(engine: str, shapes: str, clock: Clock) -> Iterator[Callable[[Job], dict[str, Any]]]:
    """Give a function that has a job done in a fresh process, which ends with the context."""
    settings = [engine, shapes, str(clock.device), "own" if clock.own else "wall"]
    command = [sys.executable, "-m", "experiments.bench.edit", *settings]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | RETURNED_AT_ONCE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        jobs, answers = child.stdin, child.stdout

        def read() -> dict[str, Any]:
            line = answers.readline()
            if not line:
                raise RuntimeError(f"{engine} on {shapes}: the process ended, exit code {child.wait()}")
            return json.loads(line)

        def ask(job: Job) -> dict[str, Any]:
            print(json.dumps(job), file=jobs, flush=True)
            return read()

        read()
        yield ask


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], sys.stdin, sys.stdout)
