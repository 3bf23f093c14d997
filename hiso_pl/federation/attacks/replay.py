"""Scalars of the round before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.attack import Attack, Scene


class Replay(Attack):
    r"""Sends what the round before has come to, which every client knows: right in form and size, of other directions.

    .. math:: g_{i,k,p} \to \hat g^{(r-1)}_{k,p}

    Where slots have directions of their own it is the slot's stretch of the record. Of another number of steps or
    directions they are gone through again from the first, or only as far as needed. Before there is a record it sends
    what it has found.

    Args:
        fraction: Share of all clients that are hostile; 0.25 of 8 are 2.
        clients: Which clients are, in place of a share.
        start: The first round in which they are.
    """

    def __call__(
        self, scalars: NDArray[np.float32], hostile: NDArray[np.bool_], present: NDArray[np.bool_], scene: Scene
    ) -> NDArray[np.float64]:
        """See :class:`~hiso_pl.zeroth_order.attack.Attack`."""
        if scene.before is None:
            return scalars[hostile].astype(np.float64)
        before, (_, steps, count) = scene.before, scalars.shape
        owners = before.cohort if scene.own_directions and before.scalars.shape[1] % before.cohort == 0 else 1
        known = before.scalars.astype(np.float64).reshape(len(before.scalars), owners, -1)
        known = known.take(range(steps), axis=0, mode="wrap").take(range(count), axis=2, mode="wrap")
        return np.stack([known[:, slot % owners] for slot in np.flatnonzero(hostile)])
