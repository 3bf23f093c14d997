"""Numbers of update rules: options checked, and computed alike on every machine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

_PIECE = {"cpu": 1 << 16}
_LARGE = 1 << 24


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


def pieces(*tensors: Tensor) -> Iterator[Sequence[Tensor]]:
    """The same elements of tensors of one shape, piece after piece: what is computed between stays small, and in cache.

    They come whole where one is not contiguous.
    """
    count, size = tensors[0].numel(), _PIECE.get(tensors[0].device.type, _LARGE)
    if count <= size or not all(t.is_contiguous() for t in tensors):
        yield tensors
        return
    flat = [t.view(-1) for t in tensors]
    for first in range(0, count, size):
        yield [t[first : first + size] for t in flat]


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


def check_not_negative(name: str, value: Any) -> None:
    """Refuses what is no finite number of at least 0.

    Raises:
        ValueError: If it is none.
    """
    if not _is_number(value) or not 0.0 <= value < math.inf:
        raise ValueError(f"{name}={value!r} must be finite and not negative")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
