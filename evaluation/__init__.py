"""Images and prompts in, one number per image and metric out; nothing here averages.

Metrics: `evaluation.clip.Clip`, `evaluation.perceptual.Lpips`, `evaluation.pixel.Pixel`.
"""

from evaluation.edits import Edits
from evaluation.metric import Metric, Scores
from evaluation.weights import WeightsUnavailable

__all__ = ["Edits", "Metric", "Scores", "WeightsUnavailable"]
