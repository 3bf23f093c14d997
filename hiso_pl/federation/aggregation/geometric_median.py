"""The geometric median."""

from __future__ import annotations

import numpy as np

from hiso_pl.federation.aggregation.robust import (
    Comparing,
    Rows,
    check_iterations,
    in_order,
    middle,
    squares,
)


class GeometricMedian(Comparing):
    r"""The point whose distances to the slots present have the smallest sum, by the smoothed Weiszfeld algorithm.

    .. math::
        v \leftarrow \sum_i \beta_i g_i \Big/ \sum_i \beta_i, \qquad \beta_i = 1 / \max(\nu, |g_i - v|)

    with :math:`|\cdot|` over all tau P scalars and sums in slot order, a fixed number of times. It starts at the median
    of the slots scalar by scalar, since from the mean it would take f slots that are far off many iterations to lose
    their weight; and :math:`\nu` is in units of the median distance from there, as scalars get smaller in a run.

    Source: RFA, Pillutla et al. 2019 (arXiv 1912.13445), algorithm 2.

    Args:
        f: How many slots of a round may be hostile.
        mixing: Whether slots are mixed with their nearest neighbours before.
        smoothing: Distances below so many median ones count as that: more of it is nearer to the mean.
        iterations: How often the point is moved.

    Raises:
        ValueError: If an option cannot be.
    """

    def __init__(self, f: int = 1, mixing: bool = False, smoothing: float = 0.1, iterations: int = 10) -> None:
        super().__init__(f, mixing)
        check_iterations(iterations)
        if isinstance(smoothing, bool) or not isinstance(smoothing, int | float) or not 1e-9 <= smoothing <= 1.0:
            raise ValueError(f"smoothing={smoothing!r} must be in [1e-9, 1]")
        self.smoothing = smoothing
        self.iterations = iterations

    def of(self, rows: Rows) -> Rows:
        """See :class:`~hiso_pl.federation.aggregation.robust.Comparing`."""
        point = middle(rows)
        nu = self.smoothing * middle(np.sqrt(squares(rows - point)))
        if nu == 0.0:  # half of the slots are there, and nothing outweighs them
            return point
        for _ in range(self.iterations):
            betas = 1.0 / np.maximum(np.sqrt(squares(rows - point)), nu)
            point = in_order(rows * betas[:, None]) / in_order(betas)
        return point
