"""Numbers that users give: which are usable, and one line for those that are not."""

import math
from numbers import Real


def is_finite(value: object) -> bool:
    """Say whether this is a number that floating point can hold; true, false, NaN and 10**400 are none."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:  # an integer beyond float64
        return False


def check_finite(name: str, value: object, least: float = -math.inf, note: str = "") -> None:
    """Raise ValueError for what is no finite number of at least `least`; `note` is put behind that."""
    if not is_finite(value) or not value >= least:  # type: ignore[operator]
        bound = "" if math.isinf(least) else f" of at least {least:g}"
        raise ValueError(f"{name}: {value!r} is not a finite number{bound}{note}")


def whole_steps(share: float, num_inference_steps: int) -> int:
    """Return how many whole steps a share of them is: `int(T * share)`, and 29 for 0.29 of 100."""
    return int(round(num_inference_steps * share, 9))  # 0.29 * 100 is 28.999999999999996
