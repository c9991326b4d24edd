"""How far images on two devices may differ."""

from collections.abc import Sequence

import torch

from p2p import Edited


def assert_same_images(ours: Sequence[Edited], theirs: Sequence[Edited], share: float) -> None:
    """All images are equal in 8 bits, but for one level in at most this share of the values."""
    for one, other in zip(ours, theirs, strict=True):
        assert (one.reconstruction is None) == (other.reconstruction is None)
        pairs = list(zip([one.source, *one.images], [other.source, *other.images], strict=True))
        if one.reconstruction is not None and other.reconstruction is not None:
            pairs.append((one.reconstruction, other.reconstruction))
        for number, (image, same) in enumerate(pairs):
            levels = ((image - same).abs() * 255).round()
            off, largest = (levels > 0).double().mean().item(), int(levels.max())
            assert torch.isfinite(image).all()
            assert largest <= 1, f"image {number}: {largest} levels off, in {off:.2%} of the values"
            assert off <= share, f"image {number}: {off:.2%} of the values are one level off"
