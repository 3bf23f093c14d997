"""What a partition is: a pure function of a number for each example, the number of clients and the seed."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from hiso_pl.federation.partition.parts import Indices, Parts
from hiso_pl.zeroth_order.philox import Draws, Purpose

# The third index of a partition's streams: one stream for each thing that is drawn.
SHUFFLE, SHARES, MOVES, SHARDS, OWNERS = range(5)


class Partition(ABC):
    """A way to divide the training examples among the clients.

    Args:
        minimum: Fewest examples a client may own. Where the draw gives a client fewer, examples are moved to it,
            one at a time, from the client that owns the most.
    """

    def __init__(self, minimum: int = 1) -> None:
        if minimum < 0:
            raise ValueError(f"minimum={minimum} must be at least 0")
        self.minimum = minimum

    @property
    def attribute(self) -> str:
        """What it divides by: "label", "length", or "column:NAME" for a column of the data."""
        return "label"

    def __call__(self, values: Indices, clients: int, seed: int) -> Parts:
        """Divides the examples.

        Args:
            values: The :attr:`attribute` of each example, shape ``[N]``.
            clients: Number of clients M.
            seed: The run's seed.

        Returns:
            For each client the indices of its examples, ascending. They are disjoint, and together complete.

        Raises:
            ValueError: If there are too few examples for so many clients.
        """
        values = np.asarray(values, dtype=np.int64)
        if values.ndim != 1:
            raise ValueError(f"values of shape {list(values.shape)} must have one dimension")
        if clients < 1:
            raise ValueError(f"clients={clients} must be at least 1")
        if clients * self.minimum > len(values):
            raise ValueError(
                f"minimum={self.minimum} examples for each of clients={clients} needs {clients * self.minimum} "
                f"training examples, but there are only {len(values)}"
            )
        parts = Parts.by_owner(self._dealt(values, clients, seed).owners(), clients)
        return Parts.of(self.meet_minimum(parts, seed))

    def _dealt(self, values: Indices, clients: int, seed: int) -> Parts:
        """What is dealt, each example once; a part from outside may give anything."""
        found, what = self.deal(values, clients, seed), f"partition={type(self).__name__}: deal()"
        if not isinstance(found, Parts):
            parts = [np.asarray(part) for part in found] if isinstance(found, (list, tuple)) else []
            if any(part.ndim != 1 or (part.size and part.dtype.kind not in "iu") for part in parts):
                parts = []
            found = Parts.of(parts)
        if len(found) != clients:
            raise ValueError(f"{what} must give a list of clients={clients} arrays of integers")
        indices = np.asarray(found.examples)
        seen = np.zeros(len(values), dtype=np.bool_)
        seen[indices[(indices >= 0) & (indices < len(values))]] = True
        if len(indices) != len(values) or not seen.all():
            raise ValueError(f"{what} gave {len(indices)} indices, must give each of 0 to {len(values) - 1} once")
        return found

    @abstractmethod
    def deal(self, values: Indices, clients: int, seed: int) -> Parts | list[Indices]:
        """Divides the examples with no regard to the minimum, in any order within a client."""

    def meet_minimum(self, parts: Parts, seed: int) -> Parts:
        """Moves drawn examples from the richest client, the lowest number among equals, to the poor ones."""
        clients, sizes = len(parts), parts.sizes
        poor = np.flatnonzero(sizes < self.minimum)
        if not len(poor):
            return parts
        # Somebody owns less than the average, so the richest owns more than it, and that is above the minimum: who is
        # given to never gives, and a heap of those that own more than the minimum stays right. A client stands in it as
        # one number, -size * M + client, as a pair takes four times the memory.
        rich = np.flatnonzero(sizes > self.minimum)
        heap = (rich - sizes[rich] * clients).tolist()
        heapq.heapify(heap)
        givers: dict[int, _Giver] = {}
        owners = parts.owners()
        draws = _draws(Draws(seed, Purpose.PARTITION, k=MOVES))
        for client in poor.tolist():
            for _ in range(self.minimum - int(sizes[client])):
                left, richest = divmod(heap[0], clients)
                if richest not in givers:
                    givers[richest] = _Giver(parts[richest])
                owners[givers[richest].pop(next(draws) * -left >> 64)] = client
                heapq.heapreplace(heap, heap[0] + clients)
        return Parts.by_owner(owners, clients)


class _Giver:
    """A client's examples, of which some are taken by their place among those that are left, each in log n steps.

    Source: P. M. Fenwick, "A new data structure for cumulative frequency tables", Software 24 (1994).
    """

    def __init__(self, examples: Indices) -> None:
        self._examples = examples
        places = np.arange(len(examples) + 1)
        self._left = (places & -places).tolist()  # node i counts those left of its i & -i places up to i
        self._top = 1 << len(examples).bit_length() - 1

    def pop(self, position: int) -> int:
        """Takes away the example at a position among those that are left."""
        place, step = 0, self._top
        while step:
            node = place + step
            if node < len(self._left):
                if self._left[node] <= position:
                    position -= self._left[node]
                    place = node
                else:
                    self._left[node] -= 1
            step >>= 1
        return int(self._examples[place])


def _draws(draws: Draws) -> Iterator[int]:
    """The draws as single numbers; fetched by the block, as a call costs more than its numbers."""
    while True:
        yield from draws.uint64(256).tolist()


def members(codes: Indices, count: int) -> list[Indices]:
    """The positions at which each of the numbers 0 to ``count - 1`` stands, ascending."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.cumsum(np.bincount(codes, minlength=count))[:-1])
