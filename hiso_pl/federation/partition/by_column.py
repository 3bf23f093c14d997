"""Natural clients, by a column of the data."""

from __future__ import annotations

import heapq

import numpy as np

from hiso_pl.federation.partition.base import OWNERS, Partition
from hiso_pl.federation.partition.parts import Indices, Parts
from hiso_pl.zeroth_order.philox import Draws, Purpose


class ByColumn(Partition):
    """Natural clients: the examples that share a value of a column have one owner.

    With as many values as clients, client i owns the i-th value in sorted order. With more, whole values are dealt, the
    one with most examples first, each to the client that owns the fewest so far; equals come in an order that is drawn.

    Args:
        column: The column whose values are the owners, such as an author, a device or a site.
        minimum: Fewest examples a client may own. Examples never leave their natural client, so too few are an error.
    """

    def __init__(self, column: str, minimum: int = 1) -> None:
        super().__init__(minimum)
        if not column:
            raise ValueError(f"column={column!r} must be the name of a column")
        self.column = column

    @property
    def attribute(self) -> str:
        """See :class:`Partition`."""
        return f"column:{self.column}"

    def deal(self, values: Indices, clients: int, seed: int) -> Parts:
        """See :class:`Partition`.

        Raises:
            ValueError: If there are fewer values than clients.
        """
        distinct, sizes = np.unique(values, return_counts=True)
        if len(distinct) < clients:
            raise ValueError(
                f"clients={clients} must be at most {len(distinct)}, "
                f"the number of values of column={self.column!r} among the training examples"
            )
        owner = np.arange(clients) if len(distinct) == clients else _deal_whole(sizes, clients, seed)
        return Parts.by_owner(owner[np.searchsorted(distinct, values)], clients)

    def meet_minimum(self, parts: Parts, seed: int) -> Parts:
        """Moves nothing.

        Raises:
            ValueError: If a client owns too few examples.
        """
        poorest = int(parts.sizes.argmin())
        if parts.sizes[poorest] < self.minimum:
            raise ValueError(
                f"minimum={self.minimum} must be at most {parts.sizes[poorest]}, the examples of client {poorest}: "
                f"none are moved between the owners of column={self.column!r}, but fewer clients own more each"
            )
        return parts


def _deal_whole(sizes: Indices, clients: int, seed: int) -> Indices:
    """The client that each value goes to, shape ``[V]``: largest value to emptiest client, ties by draw."""
    order = Draws(seed, Purpose.PARTITION, k=OWNERS).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    drawn = Draws(seed, Purpose.PARTITION, owner=1, k=OWNERS).permutation(clients)
    heap = [(0, place, client) for place, client in enumerate(drawn.tolist())]  # ascending, so it is a heap
    owner = np.empty(len(sizes), dtype=np.int64)
    for value in order.tolist():
        held, place, client = heap[0]
        owner[value] = client
        heapq.heapreplace(heap, (held + int(sizes[value]), place, client))
    return owner
