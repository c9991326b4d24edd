"""LPIPS between an edit and its source image (Zhang et al. 2018), through the lpips package, version 0.1."""

import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evaluation.batches import in_batches
from evaluation.edits import Edits
from evaluation.metric import Scores
from evaluation.weights import SMALL_LPIPS, require_files, require_reachable, weights_folder

# What torchvision fetches for the package's `pretrained=True`; a test compares them with torchvision's own.
_IMAGENET = {
    "alex": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "vgg": "https://download.pytorch.org/models/vgg16-397923af.pth",
    "squeeze": "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
}
# The last pooling of each trunk needs so many pixels.
_SMALLEST_SIDE = {"alex": 31, "vgg": 16, "squeeze": 17}


class Lpips:
    """Measure the perceptual distance of edited images from their source, at native size: 0 means alike.

    `net` is alex, vgg or squeeze with `pretrained` "imagenet" (torchvision's weights and the package's heads)
    or "random" (a seeded random trunk, to try a pipeline; the column's name says so), or any name for the
    model in `folder`, as `small_lpips.save` writes it. Images are scaled to [-1, 1], as the package wants.
    """

    def __init__(
        self,
        net: str,
        pretrained: str | None = None,
        folder: str | Path | None = None,
        device: str = "cpu",
        batch_size: int = 16,
    ) -> None:
        if (pretrained is None) == (folder is None):
            raise ValueError(f"pretrained is {pretrained!r} and folder {folder!r}; allowed: just one of them")
        if folder is None and net not in _IMAGENET:
            raise ValueError(f"net is {net!r}; allowed: {', '.join(_IMAGENET)}, or any name with a folder")
        if pretrained not in (None, "imagenet", "random"):
            raise ValueError(f"pretrained is {pretrained!r}; allowed: imagenet, random")
        self.net, self.pretrained = net, pretrained
        self.folder = None if folder is None else weights_folder(folder)
        self.device, self.batch_size = device, batch_size
        self.name = f"lpips_{net}_random@1" if pretrained == "random" else f"lpips_{net}@1"
        self.names = (self.name,)
        self.higher_is_better: Mapping[str, bool] = {self.name: False}

    def check(self) -> None:
        """Raise in one line if the weights cannot be had."""
        if self.folder is not None:
            require_files(self.name, self.folder, SMALL_LPIPS)
        elif self.pretrained == "imagenet":
            url = _IMAGENET[self.net]
            require_reachable(self.name, url, Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name)

    def load(self) -> None:
        """Load the weights now rather than at the first call."""
        self.model  # noqa: B018

    @cached_property
    def model(self) -> Any:
        """The loaded lpips.LPIPS."""
        import lpips

        self.check()
        if self.folder is not None:
            from evaluation import small_lpips

            return small_lpips.load(self.folder).to(self.device)
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            # lpips 0.1.4 still calls torchvision by its old argument.
            warnings.filterwarnings("ignore", message="The parameter 'pretrained' is deprecated")
            warnings.filterwarnings("ignore", message="Arguments other than a weight enum")
            torch.manual_seed(0)
            model = lpips.LPIPS(net=self.net, pnet_rand=self.pretrained == "random", verbose=False)
        return model.eval().to(self.device)

    @torch.inference_mode()
    def __call__(self, edits: Edits) -> dict[str, Scores]:
        """Score every edit; each source is looked at once per batch of its edits."""
        smallest, side = _SMALLEST_SIDE.get(self.net, 16), min(edits.images.shape[-2:])
        if side < smallest:
            raise ValueError(f"{self.name}: images have a side of {side}; allowed: at least {smallest}")

        def compare(rows: Tensor) -> Tensor:
            distinct, source_of = edits.source_index[rows].unique(return_inverse=True)
            sources = self._features(edits.source_images[distinct])
            images = self._features(edits.images[rows])
            return self._distance([maps[source_of] for maps in sources], images).cpu().double()

        by_source = edits.source_index.argsort(stable=True)
        distances = torch.empty(len(edits), dtype=torch.float64)
        distances[by_source] = in_batches(compare, by_source, self.batch_size)
        return {self.name: Scores.of(distances)}

    # The two halves of lpips.LPIPS.forward, so that the edits of one source share its features.
    def _features(self, images: Tensor) -> list[Tensor]:
        import lpips

        scaled = self.model.scaling_layer(2 * images.to(self.device) - 1)
        return [lpips.normalize_tensor(maps) for maps in self.model.net(scaled)]

    def _distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        layers = zip(self.model.lins, a, b, strict=True)
        return torch.stack([head((x - y) ** 2).mean(dim=(1, 2, 3)) for head, x, y in layers]).sum(dim=0)
