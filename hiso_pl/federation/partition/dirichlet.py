"""Clients that differ in their labels or lengths, by shares drawn from a Dirichlet distribution."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hiso_pl.federation.partition.base import SHARES, SHUFFLE, Partition, members
from hiso_pl.federation.partition.parts import Indices, Parts
from hiso_pl.zeroth_order.philox import Draws, Purpose


class Dirichlet(Partition):
    r"""Each group's examples are divided by shares drawn from a symmetric Dirichlet distribution.

    .. math:: (q_{c,1}, \dots, q_{c,M}) \sim \mathrm{Dir}(\alpha, \dots, \alpha) \quad \text{for every group } c

    A group is the examples of a label or, for tasks that have no labels, those of like length.

    Source: Hsu, Qi, Brown, "Measuring the effects of non-identical data distribution for federated visual
    classification", arXiv 1909.06335.

    Args:
        alpha: Concentration. A small one gives each group to few clients, a large one makes the clients alike.
        minimum: Fewest examples a client may own.
        by: What the groups are made of. label: the examples of a label are a group. length: the examples are cut by
            their number of tokens into groups of about equal size.
        bins: Number of groups by length; fewer where many examples have the same length.
    """

    def __init__(
        self, alpha: float = 1.0, minimum: int = 1, by: Literal["label", "length"] = "label", bins: int = 10
    ) -> None:
        super().__init__(minimum)
        if not 1e-6 <= alpha <= 1e6:
            raise ValueError(f"alpha={alpha} must be positive, in [1e-6, 1e6]")
        if by not in ("label", "length"):
            raise ValueError(f"by={by!r} must be one of label, length")
        if bins < 1:
            raise ValueError(f"bins={bins} must be at least 1")
        self.alpha = alpha
        self.by = by
        self.bins = bins

    @property
    def attribute(self) -> str:
        """See :class:`Partition`."""
        return self.by

    def deal(self, values: Indices, clients: int, seed: int) -> Parts:
        """See :class:`Partition`."""
        groups = quantile_bins(values, self.bins) if self.by == "length" else values
        owners = np.empty(len(values), dtype=np.int64)
        distinct, codes = np.unique(groups, return_inverse=True)
        for number, group in enumerate(members(codes, len(distinct))):
            order = Draws(seed, Purpose.PARTITION, owner=number, k=SHUFFLE).permutation(len(group))
            uniforms = _uniforms(Draws(seed, Purpose.PARTITION, owner=number, k=SHARES))
            counts = _largest_remainder(_shares(self.alpha, clients, uniforms), len(group))
            owners[group[order]] = np.repeat(np.arange(clients), counts)
        return Parts.by_owner(owners, clients)


def quantile_bins(values: Indices, bins: int) -> Indices:
    r"""The quantile bin of each number, by whole numbers alone; equal numbers share a bin.

    .. math:: \mathrm{bin}(v) = \left\lfloor \frac{\text{bins} \cdot |\{i : v_i < v\}|}{N} \right\rfloor

    Args:
        values: Numbers, shape ``[N]``.
        bins: Number of bins; one that would begin inside a run of equal numbers stays empty.

    Returns:
        Bins in ``range(bins)``, shape ``[N]``.
    """
    return np.searchsorted(np.sort(values), values, side="left").astype(np.int64) * bins // max(1, len(values))


def _uniforms(draws: Draws) -> Iterator[float]:
    """The draws as single numbers; fetched by the block, as a call costs more than its numbers."""
    while True:
        yield from draws.uniform(256).tolist()


def _shares(alpha: float, clients: int, uniforms: Iterator[float]) -> NDArray[np.float64]:
    """One draw of the symmetric Dirichlet distribution, shape ``[M]``: gamma variates over their sum.

    It works with logarithms, as for a small ``alpha`` every variate may be below the smallest float.
    """
    logs = np.fromiter((_log_gamma_variate(alpha, uniforms) for _ in range(clients)), np.float64, clients)
    variates = np.fromiter(map(math.exp, logs - logs.max()), np.float64, clients)
    return variates / math.fsum(variates)


def _log_gamma_variate(alpha: float, uniforms: Iterator[float]) -> float:
    """Logarithm of a gamma variate of shape ``alpha`` and scale 1.

    Source: Marsaglia, Tsang, "A simple method for generating gamma variables", ACM TOMS 26 (2000); below
    ``alpha = 1`` by their identity Gamma(alpha) = Gamma(alpha + 1) * U^(1 / alpha).
    """
    boost = 0.0
    if alpha < 1.0:
        boost = math.log(next(uniforms)) / alpha
        alpha += 1.0
    d = alpha - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    while True:
        radius = math.sqrt(-2.0 * math.log(next(uniforms)))
        normal = radius * math.cos(2.0 * math.pi * next(uniforms))
        root = 1.0 + c * normal
        if root <= 0.0:
            continue
        v = root * root * root
        if math.log(next(uniforms)) < 0.5 * normal * normal + d * (1.0 - v + math.log(v)):
            return math.log(d) + math.log(v) + boost


def _largest_remainder(shares: NDArray[np.float64], total: int) -> Indices:
    """Whole numbers in proportion to ``shares`` that add up to ``total``; ties go to the lower client."""
    quotas = shares * total
    counts = np.floor(quotas).astype(np.int64)
    by_remainder = np.argsort(counts - quotas, kind="stable")
    counts[by_remainder[: total - int(counts.sum())]] += 1
    return counts
