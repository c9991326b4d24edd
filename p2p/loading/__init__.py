"""Where models and other pipelines come from: folders, the model hub, LoRAs; and what their files hash to."""

from p2p.loading.model_spec import ModelSpec
from p2p.loading.pipeline_spec import Pipelines, PipelineSpec

__all__ = ["ModelSpec", "PipelineSpec", "Pipelines"]
