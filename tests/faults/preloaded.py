"""All that a run on the tiny pipeline imports, so that a process forked from here begins at once."""

# ruff: noqa: F401
import diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion
import diffusers.schedulers.scheduling_ddim
import matplotlib.pyplot
import transformers.models.clip.modeling_clip

import evaluation.pixel
import experiments.datasets.embedded_pairs
import experiments.run
import experiments.running.generate
import experiments.running.provenance
import experiments.scoring.score_run
import p2p.families.stable_diffusion
import results.summary
