"""Multi-Krum."""

from __future__ import annotations

import numpy as np

from hiso_pl.federation.aggregation.krum import scores
from hiso_pl.federation.aggregation.robust import Comparing, Rows, in_order


class MultiKrum(Comparing):
    r"""The mean of the q slots that are best by the measure of :class:`Krum`.

    .. math::
        \hat g = \frac1q \sum_{i \in B} g_i, \qquad
        B = \text{the } q \text{ smallest of } s_i = \sum_{j \in N_i} |g_i - g_j|^2

    The sum runs in slot order, and a tie goes to the lower slot.

    Source: Blanchard et al. 2017 (NIPS, Machine Learning with Adversaries); all but f are kept as in byzfl
    (github.com/LPD-EPFL/byzfl). That it is robust was shown in arXiv 2602.03899.

    Args:
        f: How many slots of a round may be hostile.
        mixing: Whether slots are mixed with their nearest neighbours before.
        kept: How many slots q are kept, so that at least q + f must be present; at 0 all but f of those present.

    Raises:
        ValueError: If f or kept is no number of slots.
    """

    def __init__(self, f: int = 1, mixing: bool = False, kept: int = 0) -> None:
        super().__init__(f, mixing)
        if isinstance(kept, bool) or not isinstance(kept, int) or kept < 0:
            raise ValueError(f"kept={kept!r} must be an integer of at least 0, which keeps all but f")
        self.kept = kept

    def least_present(self, cohort: int) -> int:
        """As many that those kept can all be honest."""
        return max(super().least_present(cohort), self.kept + self.f)

    def of(self, rows: Rows) -> Rows:
        """See :class:`~hiso_pl.federation.aggregation.robust.Comparing`."""
        best = np.argsort(scores(rows, self.f), kind="stable")[: self.kept or len(rows) - self.f]
        return in_order(rows[np.sort(best)]) / len(best)
