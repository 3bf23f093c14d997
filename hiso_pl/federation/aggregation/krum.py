"""Krum."""

from __future__ import annotations

import numpy as np

from hiso_pl.federation.aggregation.robust import Comparing, Rows, in_order, squares


class Krum(Comparing):
    r"""The scalars of one slot: of that which is nearest to the n - f - 1 other slots nearest to it, of the n present.

    .. math::
        \hat g = g_{i^*}, \qquad i^* = \arg\min_i \sum_{j \in N_i} |g_i - g_j|^2

    with :math:`|\cdot|` over all tau P scalars. A tie goes to the lower slot.

    Source: Blanchard et al. 2017 (NIPS, Machine Learning with Adversaries). There the sum goes over the n - f - 2
    nearest others, of which three slots have none to spare, and n >= 2 f + 3 is asked; here, as in byzfl
    (github.com/LPD-EPFL/byzfl), over n - f - 1, for which n >= 2 f + 1 will do: cohorts are small.
    """

    def of(self, rows: Rows) -> Rows:
        """See :class:`~hiso_pl.federation.aggregation.robust.Comparing`."""
        return np.asarray(rows[int(np.argmin(scores(rows, self.f)))])


def scores(rows: Rows, f: int) -> Rows:
    """How far each row is from the n - f nearest, itself included: the sum of squares, the smallest first."""
    return np.array([in_order(np.sort(squares(rows - row))[: len(rows) - f]) for row in rows])
