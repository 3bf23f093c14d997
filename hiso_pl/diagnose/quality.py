r"""How H relates to the Hessian's true diagonal, and what its shape does to the trace.

Directions of the same expected square, as with ``normalize: trace``, weigh the diagonal a of A by
:math:`w_i \propto 1 / H_i`, :math:`\sum_i w_i = d`:

.. math:: T(H) = d \operatorname{tr}(H^{-1} A) / \operatorname{tr} H^{-1} = \textstyle\sum_i w_i a_i

So :math:`T(I) = \operatorname{tr} A`, the true diagonal gives :math:`d^2 / \sum_i 1 / a_i`, d times the harmonic mean.
T is linear in w, so it has no least value among H > 0 but an infimum, :math:`d \min_i a_i`, all weight on the flattest
element: a small trace alone says nothing. What counts is what is gained of the gradient as well, told as ``progress``
(:meth:`.moments.Moments.greedy_gain`), and how fast the slowest element goes, :math:`\min_i w_i a_i / T`: that is at
most 1 / d, and the true diagonal alone, H_i = a_i, reaches it.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from numpy.typing import NDArray

from hiso_pl.diagnose.curvature import Diagonal

Floats = NDArray[np.float64]
DAMPING = 1e-3
"""The least that an element of the true diagonal counts for as an H, beside the mean of their sizes."""


def as_estimate(values: torch.Tensor) -> torch.Tensor:
    """The true diagonal as an H: sizes, those that are next to nothing raised, float64 ``[d]``."""
    sizes = values.double().abs()
    return sizes.clamp(min=max(DAMPING * float(sizes.mean()), 1e-30))


def correlations(h: Floats, true: Floats) -> dict[str, float]:
    """Pearson's, Spearman's, and Pearson's of the logarithms where the true value is positive; NaN where undefined."""
    from scipy.stats import pearsonr, spearmanr

    positive = (true > 0) & (h > 0)
    found = {"pearson": math.nan, "spearman": math.nan, "pearson_log": math.nan}
    pairs = {"pearson": (h, true), "pearson_log": (np.log(h[positive]), np.log(true[positive])), "spearman": (h, true)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numbers that are all alike have no correlation
        for name, (a, b) in pairs.items():
            if len(a) > 2 and np.ptp(a) > 1e-6 * np.abs(a).max() and np.ptp(b) > 0:
                found[name] = float((spearmanr if name == "spearman" else pearsonr)(a, b).statistic)
    return found


def reliability(diagonal: Diagonal) -> float:
    """The part of the estimate's variance over elements that is not the estimator's own; 1 if exact.

    A correlation with the estimate is about its square root times that with the truth.
    """
    variance = float(diagonal.values.double().var())
    noise = float(diagonal.error.double().square().mean())
    return max(0.0, 1.0 - noise / variance) if variance > 0 else math.nan


def shape_traces(diagonal: Diagonal, h_trace: float, inverse_trace: float) -> dict[str, float]:
    """T of no H, of H, of the true diagonal, and its infimum.

    The weights of an estimated diagonal and the values that they weigh are of different probes.

    Args:
        diagonal: Of A.
        h_trace: tr B B^T A.
        inverse_trace: tr B B^T.
    """
    d = diagonal.values.numel()
    crossed = []
    for ours, others in (diagonal.halves, diagonal.halves[::-1]):
        weights = 1.0 / as_estimate(ours)
        crossed.append(d * float((weights * others.double()).sum() / weights.sum()))
    return {
        "trace_none": diagonal.trace,
        "trace_h": d * h_trace / inverse_trace,
        "trace_true": 0.5 * (crossed[0] + crossed[1]),
        "trace_least": d * float(diagonal.values.min()),
    }
