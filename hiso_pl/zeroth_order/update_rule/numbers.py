"""Numbers of update rules: options checked, and computed alike on every machine."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def fp32(value: float) -> float:
    """A number rounded to fp32 once, which torch then takes without another rounding."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def power(base: float, exponent: int) -> float:
    """A float64 power by squaring: products are the same on every machine, ``pow`` of the C library need not be."""
    result = 1.0
    while exponent:
        result, base, exponent = result * base if exponent & 1 else result, base * base, exponent >> 1
    return result


def check_share(name: str, value: Any) -> None:
    """Refuses what is no share of an average that is kept from round to round.

    Raises:
        ValueError: If it is no number in [0, 1), or one that fp32 rounds to 1, by which nothing would be forgotten.
    """
    if not _is_number(value) or not 0.0 <= value < 1.0 or fp32(value) == 1.0:
        raise ValueError(f"{name}={value!r} must be in [0, 1), also when rounded to fp32")


def check_eps(value: Any) -> None:
    """Refuses what does not keep a divisor above zero.

    Raises:
        ValueError: If it is no number that is positive and finite, also in fp32.
    """
    if not _is_number(value) or not 0.0 < fp32(value) < math.inf:
        raise ValueError(f"eps={value!r} must be positive and finite, also when rounded to fp32")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
