"""What hostile clients know of honest ones: sums in slot order and in float64, the same bits everywhere."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray


def honest_rows(
    scalars: NDArray[np.float32], hostile: NDArray[np.bool_], present: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The rows of the honest slots that are there, in slot order, shape ``[honest, tau, P]``.

    Where every slot is hostile they go by what they would have sent themselves.
    """
    honest = present & ~hostile
    return scalars[honest if honest.any() else hostile].astype(np.float64)


def mean_of(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over slots, shape ``[tau, P]``."""
    total = np.zeros(rows.shape[1:])
    for row in rows:
        total = total + row
    return total / len(rows)


def deviation_of(rows: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """The standard deviation over slots with n - 1 in its divisor, shape ``[tau, P]``; zeros of a single slot."""
    total = np.zeros(rows.shape[1:])
    for row in rows:
        total = total + (row - mean) * (row - mean)
    return np.sqrt(total / max(len(rows) - 1, 1))


def check_finite(name: str, value: Any) -> None:
    """Refuses what is no finite number.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise ValueError(f"attack.{name}={str(value)[:80]} must be a finite number")
