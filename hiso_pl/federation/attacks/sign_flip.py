"""Scalars of the other sign."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.attack import Attack, Scene


class SignFlip(Attack):
    r"""Sends the opposite of what it has found, so that it climbs where others descend.

    .. math:: g_i \to -g_i

    Source: as an attack on gradients, Allen-Zhu et al. 2020 (arXiv 2012.14368), of each client's own.

    Args:
        fraction: Share of all clients that are hostile; 0.25 of 8 are 2.
        clients: Which clients are, in place of a share.
        start: The first round in which they are.
    """

    def __call__(
        self, scalars: NDArray[np.float32], hostile: NDArray[np.bool_], present: NDArray[np.bool_], scene: Scene
    ) -> NDArray[np.float64]:
        """See :class:`~hiso_pl.zeroth_order.attack.Attack`."""
        return -scalars[hostile].astype(np.float64)
