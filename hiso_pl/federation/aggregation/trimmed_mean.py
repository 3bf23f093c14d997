"""The trimmed mean."""

from __future__ import annotations

import numpy as np

from hiso_pl.federation.aggregation.robust import Comparing, Rows, in_order


class TrimmedMean(Comparing):
    r"""The mean over the slots present without the f largest and the f smallest, scalar by scalar.

    .. math:: \hat g_{k,p} = \frac{1}{n - 2 f} \sum_{j=f+1}^{n-f} g_{(j),k,p}, \quad g_{(1)} \le \dots \le g_{(n)}

    Each sum runs from the smallest on. The mean lies between honest scalars whatever f slots send.

    Source: Yin et al. 2018 (arXiv 1803.01498), option II; on the scalars of shared directions, CyBeR-0 (arXiv
    2502.00193).
    """

    def of(self, rows: Rows) -> Rows:
        """See :class:`~hiso_pl.federation.aggregation.robust.Comparing`."""
        kept = np.sort(rows, axis=0)[self.f : len(rows) - self.f]
        return in_order(kept) / len(kept)
