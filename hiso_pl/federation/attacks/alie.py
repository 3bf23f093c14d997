"""Scalars that are off by as much as nobody notices."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from hiso_pl.federation.attacks.honest import check_finite, deviation_of, honest_rows, mean_of
from hiso_pl.zeroth_order.attack import FRACTION, Attack, Scene


class ALIE(Attack):
    r"""A little is enough: all hostile slots send the same, off the honest mean by some deviations of each scalar.

    .. math::
        g_{i,k,p} \to \mu_{k,p} - z\, \sigma_{k,p}, \qquad
        z = \Phi^{-1}\Big(\frac{m - f - s}{m - f}\Big), \quad s = \lfloor m / 2 \rfloor + 1 - f

    with mean and standard deviation (n - 1 in its divisor) over the honest slots, m slots present and f of them
    hostile. That z is the largest at which so many honest slots lie further out that hostile ones and they are a
    majority. With f far below m / 2 it is about zero or below, and next to nothing is done: give z then. Where hostile
    slots are a majority by themselves s is 1; of less than two honest slots there is no deviation, and z does not
    matter. As slots are compared, they must share their directions. Without an honest slot it goes by the hostile ones'
    own scalars.

    Source: Baruch, Baruch, Goldberg, "A Little Is Enough" (arXiv 1902.06156), algorithm 3.

    Args:
        fraction: Share of all clients that are hostile; 0.25 of 8 are 2.
        clients: Which clients are, in place of a share.
        start: The first round in which they are.
        z: Deviations off the mean; by the equation if null.
    """

    compares_slots = True

    def __init__(
        self, fraction: float = FRACTION, clients: list[int] | None = None, start: int = 0, z: float | None = None
    ) -> None:
        super().__init__(fraction, clients, start)
        if z is not None:
            check_finite("z", z)
        self.z = z

    def __call__(
        self, scalars: NDArray[np.float32], hostile: NDArray[np.bool_], present: NDArray[np.bool_], scene: Scene
    ) -> NDArray[np.float64]:
        """See :class:`~hiso_pl.zeroth_order.attack.Attack`."""
        rows = honest_rows(scalars, hostile, present)
        mean = mean_of(rows)
        z = usual_z(int(present.sum()), int(hostile.sum())) if self.z is None else self.z
        return np.stack([mean - z * deviation_of(rows, mean)] * int(hostile.sum()))


def usual_z(slots: int, hostile: int) -> float:
    """The z of the equation for so many slots present, of which so many are hostile, rounded to fp32.

    The rounding takes the last bits of the C library's logarithm away, which need not be the same on every machine.
    """
    honest = slots - hostile
    supporters = max(slots // 2 + 1 - hostile, 1)
    if honest < 2:
        return 0.0
    return float(np.float32(NormalDist().inv_cdf((honest - supporters) / honest)))
