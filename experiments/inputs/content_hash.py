"""One hash of plain values, for content keys and digests."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any


def content_hash(content: Sequence[Any]) -> str:
    """Return a hash of plain values, equal for equal ones: 64 hex digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
