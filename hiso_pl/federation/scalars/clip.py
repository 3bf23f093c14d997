"""Clipping."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.transform import Departure, Transform


class Clip(Transform):
    r"""Bounds scalars, each for itself or by the norm of all that a client sends in a round.

    .. math::
        g \to \max(-bound, \min(bound, g)) \qquad\text{or}\qquad g \to g \cdot \min(1, bound / |g|),
        \quad |g|^2 = \textstyle\sum_{k,p} g_{k,p}^2

    The norm is computed in float64, and each product rounded to fp32. A slot with a scalar that is not finite is
    dropped, not clipped.

    Args:
        bound: The largest size of a scalar, or of their norm.
        by: ``scalar`` bounds each, ``norm`` their norm, which keeps their proportions.
    """

    def __init__(self, bound: float = 100.0, by: Literal["scalar", "norm"] = "scalar") -> None:
        if not (bound > 0.0 and math.isfinite(bound)):
            raise ValueError(f"bound={bound} must be finite and positive")
        if by not in ("scalar", "norm"):
            raise ValueError(f"by={by!r} must be 'scalar' or 'norm'")
        self.bound = bound
        self.by = by

    def __call__(self, scalars: NDArray[np.float32], departure: Departure) -> NDArray[np.float32]:
        """See :class:`~hiso_pl.zeroth_order.transform.Transform`."""
        if self.by == "scalar":
            return np.clip(scalars, np.float32(-self.bound), np.float32(self.bound))
        norm = math.sqrt(math.fsum(g * g for g in scalars.astype(np.float64).ravel().tolist()))
        return scalars if norm <= self.bound else (scalars.astype(np.float64) * (self.bound / norm)).astype(np.float32)
