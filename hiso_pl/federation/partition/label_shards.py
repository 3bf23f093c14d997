"""Clients that know few labels."""

from __future__ import annotations

import numpy as np

from hiso_pl.federation.partition.base import SHARDS, SHUFFLE, Partition
from hiso_pl.federation.partition.parts import Indices, Parts, even
from hiso_pl.zeroth_order.philox import Draws, Purpose


class LabelShards(Partition):
    """The examples, sorted by label, are cut into equal shards, and each client is dealt a few of them at random.

    Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized data",
    arXiv 1602.05629.

    Args:
        shards: Shards a client owns, so about the number of labels it sees.
        minimum: Fewest examples a client may own.
    """

    def __init__(self, shards: int = 2, minimum: int = 1) -> None:
        super().__init__(minimum)
        if shards < 1:
            raise ValueError(f"shards={shards} must be at least 1")
        self.shards = shards

    def deal(self, values: Indices, clients: int, seed: int) -> Parts:
        """See :class:`Partition`."""
        total = clients * self.shards
        if total > len(values):
            raise ValueError(
                f"shards={self.shards} for each of clients={clients} needs {total} training examples, "
                f"but there are only {len(values)}"
            )
        order = Draws(seed, Purpose.PARTITION, k=SHUFFLE).permutation(len(values))
        by_label = order[np.argsort(values[order], kind="stable")]
        dealt = Draws(seed, Purpose.PARTITION, k=SHARDS).permutation(total)  # a client's are next to each other
        holder = np.empty(total, dtype=np.int64)
        holder[dealt] = np.repeat(np.arange(clients), self.shards)
        owners = np.empty(len(values), dtype=np.int64)
        owners[by_label] = np.repeat(holder, even(len(values), total))
        return Parts.by_owner(owners, clients)
