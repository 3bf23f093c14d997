"""Scalars that are always off by the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiso_pl.federation.attacks.honest import check_finite
from hiso_pl.zeroth_order.attack import FRACTION, Attack, Scene


class ConstantDrift(Attack):
    r"""Adds the same number to every scalar.

    .. math:: g_i \to g_i + drift

    As directions are new in every round, x does not drift anywhere: it is shaken, by as much in the last round as in
    the first.

    Args:
        fraction: Share of all clients that are hostile; 0.25 of 8 are 2.
        clients: Which clients are, in place of a share.
        start: The first round in which they are.
        drift: That number, in the units of scalars: ``scalar/mean_abs`` of an honest run shows their size.
    """

    def __init__(
        self, fraction: float = FRACTION, clients: list[int] | None = None, start: int = 0, drift: float = 1.0
    ) -> None:
        super().__init__(fraction, clients, start)
        check_finite("drift", drift)
        self.drift = drift

    def __call__(
        self, scalars: NDArray[np.float32], hostile: NDArray[np.bool_], present: NDArray[np.bool_], scene: Scene
    ) -> NDArray[np.float64]:
        """See :class:`~hiso_pl.zeroth_order.attack.Attack`."""
        return scalars[hostile].astype(np.float64) + self.drift
