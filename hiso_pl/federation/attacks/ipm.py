"""Scalars against the mean of the honest ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiso_pl.federation.attacks.honest import check_finite, honest_rows, mean_of
from hiso_pl.zeroth_order.attack import FRACTION, Attack, Scene


class IPM(Attack):
    r"""Inner product manipulation: all hostile slots send the same, against the mean of the honest ones.

    .. math:: g_i \to -\epsilon \cdot \operatorname{mean}_{j\ \text{honest}} g_j

    A small epsilon passes for an honest client and makes rules that choose among slots choose it; in a plain mean f of
    m hostile slots turn the sign once epsilon exceeds (m - f) / f. As slots are compared, they must share their
    directions. Without an honest slot it goes by the hostile ones' own scalars.

    Source: Xie, Koyejo, Gupta, "Fall of Empires" (arXiv 1903.03936).

    Args:
        fraction: Share of all clients that are hostile; 0.25 of 8 are 2.
        clients: Which clients are, in place of a share.
        start: The first round in which they are.
        epsilon: Size of what is sent, in units of that mean.
    """

    compares_slots = True

    def __init__(
        self, fraction: float = FRACTION, clients: list[int] | None = None, start: int = 0, epsilon: float = 0.5
    ) -> None:
        super().__init__(fraction, clients, start)
        check_finite("epsilon", epsilon)
        self.epsilon = epsilon

    def __call__(
        self, scalars: NDArray[np.float32], hostile: NDArray[np.bool_], present: NDArray[np.bool_], scene: Scene
    ) -> NDArray[np.float64]:
        """See :class:`~hiso_pl.zeroth_order.attack.Attack`."""
        row = -self.epsilon * mean_of(honest_rows(scalars, hostile, present))
        return np.stack([row] * int(hostile.sum()))
