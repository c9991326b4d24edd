"""An adapter whose workers score while they make, as where the denoiser is on a device of its own."""

from experiments.executors import worker
from p2p.families.stable_diffusion import StableDiffusion

worker.same_cores = lambda model: False


class Beside(StableDiffusion):
    """Stable Diffusion whose metrics do not wait for it."""
