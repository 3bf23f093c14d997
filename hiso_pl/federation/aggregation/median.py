"""The median."""

from __future__ import annotations

from hiso_pl.federation.aggregation.robust import Comparing, Rows, middle


class Median(Comparing):
    r"""The median over the slots present, scalar by scalar; of an even number the mean of the two in the middle.

    .. math:: \hat g_{k,p} = \mathrm{median}_{slot}\, g_{slot,k,p}

    It lies between honest scalars whatever f slots send.

    Source: Yin et al. 2018 (arXiv 1803.01498), option I.
    """

    def of(self, rows: Rows) -> Rows:
        """See :class:`~hiso_pl.federation.aggregation.robust.Comparing`."""
        return middle(rows)
