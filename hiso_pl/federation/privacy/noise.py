"""Bounds and noise: what both levels of privacy are made of."""

from __future__ import annotations

import math
from random import SystemRandom

import numpy as np
from numpy.typing import NDArray

_SYSTEM = SystemRandom()


def clipped(vector: NDArray[np.floating], bound: float) -> NDArray[np.float64]:
    r"""A vector no longer than a bound: :math:`v \min(1, C / \|v\|_2)`, and zero where it is not finite.

    So that nobody learns whether it was finite. The norm is taken in float64, its sum rounded once.

    Args:
        vector: Any shape; it is one vector.
        bound: C.
    """
    wide = vector.astype(np.float64)
    if not np.isfinite(wide).all():
        return np.zeros_like(wide)
    norm = math.sqrt(math.fsum((wide * wide).ravel().tolist()))
    return wide if norm <= bound else wide * (bound / norm)


def gaussian(shape: tuple[int, ...], deviation: float) -> NDArray[np.float64]:
    """Normal numbers of the system's entropy: of no seed, so that nobody can draw them again.

    They are float64 as a normal generator gives them. What the gaps between floating-point numbers tell of the number
    that noise was added to (Mironov 2012, "On significance of the least significant bits for differential privacy") is
    not defended against, though rounding the sum to fp32 takes most of those bits away.
    """
    drawn = [_SYSTEM.normalvariate(0.0, deviation) for _ in range(math.prod(shape))]
    return np.array(drawn, dtype=np.float64).reshape(shape)


def as_sent(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Released numbers in fp32, those beyond its range cut to it: after the noise that tells nothing more."""
    largest = float(np.finfo(np.float32).max)
    return np.clip(values, -largest, largest).astype(np.float32)
