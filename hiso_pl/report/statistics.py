"""Means over seeds with their intervals, and differences between methods on the seeds that they have in common."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEVEL = 0.95
"""What share of resampled means an interval holds."""
EXACT = 6
"""Up to so many seeds all samples are taken, n^n, so that nothing of an interval is random."""
SAMPLES = 9999
"""Samples of more seeds."""


class Interval(NamedTuple):
    """A mean with its interval; NaN is what there is not.

    Attributes:
        mean: The mean.
        low: Lower end; none of a single value.
        high: Upper end.
        seeds: Values that it is made of.
    """

    mean: float
    low: float
    high: float
    seeds: int


class Pair(NamedTuple):
    """One method beside another on common seeds.

    Attributes:
        difference: Mean of the one less the other.
        ratio: Mean of the one over the mean of the other; of none if one of the values is not positive.
        missed: Common seeds at which one of the two has no value.
    """

    difference: Interval
    ratio: Interval
    missed: int


@functools.cache
def resamples(n: int) -> NDArray[np.int64]:
    """Which of n values each sample takes, shape ``[samples, n]``: all ordered ones, or so many drawn by seed 0."""
    import numpy as np

    if n <= EXACT:
        return np.stack(np.unravel_index(np.arange(n**n), (n,) * n), axis=1)
    return np.random.default_rng(0).integers(n, size=(SAMPLES, n))


def ends(samples: NDArray[np.float64]) -> tuple[float, float]:
    """The ends of the percentile interval: the smallest values below which a share of 0.025, and of 0.975, lies."""
    import numpy as np

    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return float(low), float(high)


def interval(values: Sequence[float]) -> Interval:
    r"""The mean of seeds, with the percentile interval of the bootstrap (Efron and Tibshirani 1993, chapter 13).

    .. math::
        \left[ F^{-1}(0.025), F^{-1}(0.975) \right], \qquad F(x) = P\left( \tfrac1n \sum_j x_{I_j} \le x \right)

    the I being n independent draws of 1 to n. Of two or three values that is their range.

    Args:
        values: A value for each seed; NaN is one that there is not.
    """
    import numpy as np

    found = np.array([value for value in values if math.isfinite(value)], dtype=np.float64)
    n = len(found)
    if n < 2:
        return Interval(float(found[0]) if n else math.nan, math.nan, math.nan, n)
    return Interval(float(found.mean()), *ends(found[resamples(n)].mean(axis=1)), n)


def pair(one: Sequence[float], other: Sequence[float]) -> Pair:
    """One method beside another, seed by seed: seeds are drawn together, so that what both share drops out.

    Args:
        one: A value for each common seed; NaN is one that there is not.
        other: The other's values, for the same seeds.
    """
    import numpy as np

    both = np.array([one, other], dtype=np.float64)
    known = np.isfinite(both).all(axis=0)
    first, second = both[:, known]
    missed, none = int((~known).sum()), Interval(math.nan, math.nan, math.nan, int(known.sum()))
    if not known.any():
        return Pair(none, none, missed)
    difference = interval((first - second).tolist())
    if min(first.min(), second.min()) <= 0:
        return Pair(difference, none, missed)
    ratio = float(first.mean() / second.mean())
    if len(first) < 2:
        return Pair(difference, none._replace(mean=ratio), missed)
    taken = resamples(len(first))
    low, high = ends(first[taken].mean(axis=1) / second[taken].mean(axis=1))
    return Pair(difference, Interval(ratio, low, high, len(first)), missed)
