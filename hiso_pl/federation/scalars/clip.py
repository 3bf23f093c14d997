"""Clipping."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.transform import Departure, Transform


class Clip(Transform):
    """Bounds each scalar: ``g -> max(-bound, min(bound, g))``. One that is not a number stays so, and is dropped.

    Args:
        bound: The largest size of a scalar.
    """

    def __init__(self, bound: float = 100.0) -> None:
        if not (bound > 0.0 and math.isfinite(bound)):
            raise ValueError(f"bound={bound} must be finite and positive")
        self.bound = bound

    def __call__(self, scalars: NDArray[np.float32], departure: Departure) -> NDArray[np.float32]:
        """See :class:`~hiso_pl.zeroth_order.transform.Transform`."""
        return np.clip(scalars, np.float32(-self.bound), np.float32(self.bound))
