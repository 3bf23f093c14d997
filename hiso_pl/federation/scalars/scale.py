"""A client's scale of a round, in the 16 bits in which it is sent beside its scalars."""

from __future__ import annotations

import numpy as np

SCALE_BITS = 16
_LARGEST = 0x7F7F0000  # the last bfloat16 that is finite, as fp32


def rounded_up(scale: float) -> float:
    """The smallest bfloat16 that is not below a scale: the upper half of an fp32 number, so of the same range.

    Args:
        scale: A number that is not negative, rounded to fp32 first.

    Returns:
        That number; the largest finite one for those beyond.
    """
    with np.errstate(over="ignore"):
        bits = int(np.float32(scale).view(np.uint32))
    return float(np.uint32(min((bits + 0xFFFF) & 0xFFFF0000, _LARGEST)).view(np.float32))
