"""One hash of plain values, for content keys and digests."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

_encode = json.JSONEncoder(sort_keys=True).encode  # made once: a plan hashes each of its edits


def content_hash(content: Sequence[Any]) -> str:
    """Return a hash of plain values, equal for equal ones: 64 hex digits."""
    return hashlib.sha256(_encode(content).encode()).hexdigest()


class Beginning:
    """What many hashed lists begin with, itself hashed only once.

    `Beginning(base).hash(rest)` is `content_hash([*base, *rest])`; neither part may be empty.
    """

    def __init__(self, base: Sequence[Any]) -> None:
        self._begun = hashlib.sha256(_encode(base)[:-1].encode())

    def hash(self, rest: Sequence[Any]) -> str:
        """Return the hash of `base` with `rest` behind it: 64 hex digits."""
        whole = self._begun.copy()
        whole.update(f", {_encode(rest)[1:]}".encode())
        return whole.hexdigest()
