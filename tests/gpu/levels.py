"""How far images on two devices may differ."""

from collections.abc import Sequence

import torch

from p2p import Edited


def assert_same_images(ours: Sequence[Edited], theirs: Sequence[Edited], share: float) -> None:
    """At most this share of an image's 8-bit values differ, and a tenth of it by more than one level.

    More than one level is what is left of a threshold (LocalBlend's, Proximal's) that a rounding has crossed.
    """
    for one, other in zip(ours, theirs, strict=True):
        assert (one.reconstruction is None) == (other.reconstruction is None)
        pairs = list(zip([one.source, *one.images], [other.source, *other.images], strict=True))
        if one.reconstruction is not None and other.reconstruction is not None:
            pairs.append((one.reconstruction, other.reconstruction))
        for number, (image, same) in enumerate(pairs):
            levels = ((image - same).abs() * 255).round()
            off, far = ((levels > least).double().mean().item() for least in (0, 1))
            told = f"image {number}: {off:.2%} of the values differ, {far:.2%} by more than one level"
            assert torch.isfinite(image).all()
            assert off <= share, told
            assert far <= share / 10, told
