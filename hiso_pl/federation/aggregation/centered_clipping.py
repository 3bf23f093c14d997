"""Centred clipping."""

from __future__ import annotations

from typing import Literal

import numpy as np

from hiso_pl.federation.aggregation.robust import (
    Comparing,
    Rows,
    check_iterations,
    check_positive,
    cuts,
    in_order,
    middle,
)


class CenteredClipping(Comparing):
    r"""A centre moved by the mean of what slots are away from it, each difference cut to a radius.

    .. math::
        v \leftarrow v + \frac1n \sum_i (g_i - v) \min\Big(1, \frac{\rho}{|g_i - v|}\Big)

    with :math:`|\cdot|` over all tau P scalars and the sum in slot order. A hostile slot moves the centre by no more
    than :math:`\rho / n` in an iteration. A radius that is relative is a multiple of the median of the distances
    :math:`|g_i - v|`, which a minority cannot move beyond honest ones, and follows the size of the scalars.

    Source: Karimireddy et al. 2021 (arXiv 2012.10333). There the centre starts at the last round's result; here a round
    has directions of its own, along which that one says nothing, so it starts at zero or at the median of the slots.

    Args:
        f: How many slots of a round may be hostile.
        mixing: Whether slots are mixed with their nearest neighbours before.
        radius: How far a slot may be from the centre before it is cut.
        relative: Whether the radius is in units of the median distance, or a number like the scalars.
        start: Where the centre starts: at the ``median`` of the slots scalar by scalar, or at ``zero``.
        iterations: How often it is moved.

    Raises:
        ValueError: If an option cannot be.
    """

    def __init__(
        self,
        f: int = 1,
        mixing: bool = False,
        radius: float = 1.0,
        relative: bool = True,
        start: Literal["median", "zero"] = "median",
        iterations: int = 3,
    ) -> None:
        super().__init__(f, mixing)
        check_positive("radius", radius)
        check_iterations(iterations)
        if start not in ("median", "zero"):
            raise ValueError(f"start={start!r} must be 'median' or 'zero'")
        self.radius = radius
        self.relative = relative
        self.start = start
        self.iterations = iterations

    def of(self, rows: Rows) -> Rows:
        """See :class:`~hiso_pl.federation.aggregation.robust.Comparing`."""
        centre = middle(rows) if self.start == "median" else np.zeros_like(rows[0])
        for _ in range(self.iterations):
            away = rows - centre
            centre = centre + in_order(away * cuts(away, self.radius, self.relative)[:, None]) / len(rows)
        return centre
