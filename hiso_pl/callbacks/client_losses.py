"""The clients' losses as they came in over a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hiso_pl.callbacks.boards import Bins

ROWS, COLUMNS, BINS = 100, 60, 20


class ClientLosses:
    """Keeps what the log tells of each client's loss: the last one, and means over stretches of the run.

    A client's loss is that of its minibatch at the start of a round that sampled it. Of more than 100 clients those
    that follow each other share a row.

    Args:
        clients: Number of clients M.
        rounds: Rounds of the whole run.
    """

    def __init__(self, clients: int, rounds: int) -> None:
        self.clients, self.rounds = clients, rounds
        self._last = np.full(clients, np.nan, dtype=np.float32)
        self._sums = np.zeros((min(clients, ROWS), min(rounds, COLUMNS)))
        self._counts = np.zeros_like(self._sums)

    def add(self, round: int, clients: Sequence[int], losses: NDArray[np.float32]) -> None:
        """Takes the losses of a round's slots; those that are not finite are left out."""
        told = np.isfinite(losses)
        if not told.any() or round >= self.rounds:
            return
        chosen = np.asarray(clients)[told]
        self._last[chosen] = losses[told]
        rows, column = chosen * len(self._sums) // self.clients, round * self._sums.shape[1] // self.rounds
        np.add.at(self._sums[:, column], rows, losses[told])
        np.add.at(self._counts[:, column], rows, 1)

    def last(self) -> dict[str, Bins]:
        """The clients' last losses as a histogram, where any are known."""
        known = self._last[np.isfinite(self._last)].astype(np.float64)
        if not len(known):
            return {}
        counts, edges = np.histogram(known, bins=BINS)
        return {"train/loss_by_client": Bins(edges, counts)}

    def means(self) -> NDArray[np.float64]:
        """Mean losses by client or group of clients and stretch of rounds, NaN where none is known."""
        with np.errstate(invalid="ignore"):
            return self._sums / self._counts
