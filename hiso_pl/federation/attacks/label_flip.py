"""Honest scalars of wrong labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.attack import Attack, Scene


class LabelFlip(Attack):
    r"""Works as everybody does, with wrong labels: of C classes, as the model numbers them, c is taken for C - 1 - c.

    Labels are flipped in the minibatches of hostile clients, see :class:`hiso_pl.data.rounds.Rounds`: of text it is the
    class, label word or candidate that is taken for the right one. Partition, statistics and evaluation have the true
    ones. Of an odd number of classes the middle one stays. A task without classes is refused, and a plain loop has to
    flip its labels itself, by :meth:`labels`.

    Source: as an attack to compare with, Fang et al. 2020 (arXiv 1911.11815).

    Args:
        fraction: Share of all clients that are hostile; 0.25 of 8 are 2.
        clients: Which clients are, in place of a share.
        start: The first round in which they are.
    """

    def labels(self, labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
        """See :class:`~hiso_pl.zeroth_order.attack.Attack`."""
        return classes - 1 - labels

    def __call__(
        self, scalars: NDArray[np.float32], hostile: NDArray[np.bool_], present: NDArray[np.bool_], scene: Scene
    ) -> NDArray[np.float64]:
        """See :class:`~hiso_pl.zeroth_order.attack.Attack`."""
        return scalars[hostile].astype(np.float64)
