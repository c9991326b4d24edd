"""Where models and other pipelines come from: folders, the model hub, LoRAs; and what their files hash to."""

from p2p.loading.model_spec import ModelSpec

__all__ = ["ModelSpec"]
