"""Scalars of another size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiso_pl.federation.attacks.honest import check_finite
from hiso_pl.zeroth_order.attack import FRACTION, Attack, Scene


class Scaling(Attack):
    r"""Sends a multiple of what it has found, which outweighs the others in a mean.

    .. math:: g_i \to factor \cdot g_i

    Args:
        fraction: Share of all clients that are hostile; 0.25 of 8 are 2.
        clients: Which clients are, in place of a share.
        start: The first round in which they are.
        factor: That multiple; a negative one turns the sign as well.
    """

    def __init__(
        self, fraction: float = FRACTION, clients: list[int] | None = None, start: int = 0, factor: float = 10.0
    ) -> None:
        super().__init__(fraction, clients, start)
        check_finite("factor", factor)
        self.factor = factor

    def __call__(
        self, scalars: NDArray[np.float32], hostile: NDArray[np.bool_], present: NDArray[np.bool_], scene: Scene
    ) -> NDArray[np.float64]:
        """See :class:`~hiso_pl.zeroth_order.attack.Attack`."""
        return self.factor * scalars[hostile].astype(np.float64)
