"""Clients that are alike: random samples of all examples."""

from __future__ import annotations

from hiso_pl.federation.partition.base import SHUFFLE, Partition
from hiso_pl.federation.partition.parts import Indices, Parts, even
from hiso_pl.zeroth_order.philox import Draws, Purpose


class IID(Partition):
    """Every client owns a random sample of all examples; sizes differ by at most one.

    Args:
        minimum: Fewest examples a client may own.
    """

    def __init__(self, minimum: int = 1) -> None:
        super().__init__(minimum)

    def deal(self, values: Indices, clients: int, seed: int) -> Parts:
        """See :class:`Partition`."""
        order = Draws(seed, Purpose.PARTITION, k=SHUFFLE).permutation(len(values))
        return Parts(order, even(len(order), clients))
