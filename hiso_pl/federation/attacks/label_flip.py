"""Honest scalars of wrong labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.attack import Attack, Scene


class LabelFlip(Attack):
    r"""Works as everybody does, with wrong labels: class c of C is taken for class C - 1 - c.

    The data module turns the labels of hostile clients' minibatches, see :meth:`hiso_pl.data.rounds.Rounds`; partition,
    statistics and evaluation have the true ones. With an odd number of classes the middle one stays. A task without
    classes is refused.

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
