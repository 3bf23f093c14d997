"""The mean of slots whose norms are bounded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiso_pl.federation.aggregation.robust import Robust, check_positive, cuts, in_order


class NormClipping(Robust):
    r"""The mean over the slots present, each cut to a norm; slots may have directions of their own.

    .. math::
        \hat g_{k,p} = \frac1n \sum_i c_i\, g_{i,k,p} \qquad\text{or}\qquad \hat g_{k,iP+p} = c_i\, g_{i,k,p}\,\frac mn,
        \qquad c_i = \min\Big(1, \frac{C}{|g_i|}\Big)

    along shared directions and along each slot's own, with :math:`|\cdot|` over all tau P scalars of a slot. C is the
    bound, or that many times the median of the norms of the slots present: along directions of its own a slot's
    scalars cannot be compared with another's, but their norm can, and a minority cannot move the median norm beyond
    honest ones. Sums run in slot order.

    It bounds what f hostile slots do, and does not find them: they move the mean by at most f C / n, and along own
    directions each fills its part of D with a norm of at most C m / n, as an honest one may. Slots
    that agree on the opposite direction are not seen.

    Args:
        f: How many slots of a round may be hostile.
        bound: The largest norm of a slot.
        relative: Whether the bound is in units of the median norm, or a number like the scalars.

    Raises:
        ValueError: If an option cannot be.
    """

    def __init__(self, f: int = 1, bound: float = 1.0, relative: bool = True) -> None:
        super().__init__(f)
        check_positive("bound", bound)
        self.bound = bound
        self.relative = relative

    def __call__(
        self, scalars: NDArray[np.float32], present: NDArray[np.bool_], weights: NDArray[np.float64] | None
    ) -> NDArray[np.float32]:
        """See :class:`~hiso_pl.zeroth_order.aggregation.Aggregation`.

        Raises:
            ValueError: If fewer slots are present than the rule needs.
        """
        rows = self._cut(scalars, present)
        return (in_order(rows) / len(rows)).reshape(scalars.shape[1:]).astype(np.float32) + np.float32(0.0)

    def side_by_side(
        self, scalars: NDArray[np.float32], present: NDArray[np.bool_], weights: NDArray[np.float64] | None
    ) -> NDArray[np.float32]:
        """See :class:`~hiso_pl.zeroth_order.aggregation.Aggregation`.

        Raises:
            ValueError: As :meth:`__call__`.
        """
        slots, steps, count = scalars.shape
        rows = self._cut(scalars, present)
        found = np.zeros((slots, steps, count), dtype=np.float32)
        found[present] = (rows * slots / len(rows)).reshape(-1, steps, count).astype(np.float32) + np.float32(0.0)
        return np.ascontiguousarray(found.transpose(1, 0, 2)).reshape(steps, slots * count)

    def _cut(self, scalars: NDArray[np.float32], present: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The slots present, none longer than the bound."""
        rows = self._members(scalars, present)
        return np.asarray(rows * cuts(rows, self.bound, self.relative)[:, None])
