"""The cohort's model differences: through the exchange piece by piece, summed in slot order in float64."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.zeroth_order.interfaces import Exchange, Slots

PIECE = 1 << 22
"""Numbers of all slots together that one exchange carries at most."""


class Span(NamedTuple):
    """Elements of a tensor, by its position and their row-major indices."""

    tensor: int
    start: int
    stop: int


def pieces(sizes: Sequence[int], most: int) -> Iterator[list[Span]]:
    """Cuts tensors that lie end to end into pieces of at most so many elements, in order.

    Args:
        sizes: Elements of each tensor.
        most: Elements of a piece.
    """
    piece: list[Span] = []
    room = most
    for tensor, size in enumerate(sizes):
        start = 0
        while start < size:
            stop = min(size, start + room)
            piece.append(Span(tensor, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                yield piece
                piece, room = [], most
    if piece:
        yield piece


class Differences:
    r"""The differences of a round's cohort, and their mean over the slots present.

    .. math:: \Delta = \frac{\sum_{slot} n_{slot} \Delta_{slot}}{\sum_{slot} n_{slot}}

    Both sums run over the slots present, in slot order, in float64, whichever processes the differences are from: so
    every number of ranks gives the same bits. A process that is alone adds each up as it comes, and keeps two
    numbers a parameter. Otherwise it keeps its own slots' differences, fp32, until all are exchanged.

    Args:
        sizes: Elements of each trained tensor.
        slots: Whose they are.
        exchange: What carries rows to all processes.
        weights: n of each slot.

    Attributes:
        exchange_s: Seconds spent in the exchange.
    """

    def __init__(self, sizes: Sequence[int], slots: Slots, exchange: Exchange, weights: Sequence[float]) -> None:
        self._sizes, self._slots, self._exchange, self._weights = sizes, slots, exchange, weights
        self._alone = exchange.alone
        self._sums: list[Tensor] = []
        self._held: dict[int, Sequence[Tensor]] = {}
        self._told = np.zeros((slots.size, 3), dtype=np.float32)
        self.exchange_s = 0.0

    def add(self, slot: int, differences: Sequence[Tensor], loss: float) -> None:
        """Takes the differences of an own slot, in tensor order; the next one is of a later slot.

        Args:
            slot: The slot.
            differences: Its client's model less x, fp32; not to be changed any more.
            loss: Its client's loss at x.
        """
        norms = [torch.linalg.vector_norm(d, dtype=torch.float64) for d in differences]
        norm = math.hypot(*torch.stack(norms).tolist()) if norms else 0.0
        ends = [torch.stack(torch.aminmax(d)) for d in differences if d.numel()]
        finite = math.isfinite(loss) and bool(torch.isfinite(torch.stack(ends)).all() if ends else True)
        self._told[slot] = loss, finite, min(norm, float(np.finfo(np.float32).max)) if finite else 0.0
        if not self._alone:
            self._held[slot] = differences if finite else [torch.zeros_like(d) for d in differences]
        elif finite:
            if not self._sums:
                self._sums = [torch.zeros(d.numel(), dtype=torch.float64, device=d.device) for d in differences]
            for total, d in zip(self._sums, differences, strict=True):
                total += d.reshape(-1).double() * self._weights[slot]

    def meet(self) -> None:
        """Tells all processes which slots are there; to be called once, when the own ones have been added."""
        rows = torch.from_numpy(self._told[list(self._slots.own)])
        self._told = self._sent(rows.view(len(self._slots.own), 3)).numpy()

    @property
    def losses(self) -> NDArray[np.float32]:
        """Each slot's loss at x, shape ``[m]``; NaN of a client that does not answer."""
        found = self._told[:, 0].copy()
        found[list(self._slots.absent)] = np.nan
        return found

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which slots' loss and difference are finite, shape ``[m]``."""
        return self._told[:, 1] > 0

    @property
    def norm(self) -> float:
        """The mean norm of the differences of the slots present."""
        return float(self._told[self.present, 2].astype(np.float64).mean())

    def means(self, device: torch.device) -> Iterator[tuple[list[Span], Tensor]]:
        """The mean difference, piece by piece: which elements, and their mean, float64, end to end.

        Args:
            device: Where the parameters are.

        Raises:
            ValueError: If the slots present have no weight.
        """
        present = np.flatnonzero(self.present).tolist()
        mass = math.fsum(self._weights[slot] for slot in present)
        if mass <= 0.0:
            raise ValueError("weights of the slots present are all 0.0, at least one must be positive")
        for spans in pieces(self._sizes, max(1, PIECE // self._slots.size)):
            if self._alone:
                total = torch.cat([self._sums[t][start:stop] for t, start, stop in spans])
            else:
                rows = [torch.cat([_part(self._held[slot], span) for span in spans]) for slot in self._slots.own]
                width = sum(stop - start for _, start, stop in spans)
                every = self._sent(torch.stack(rows) if rows else torch.empty(0, width, device=device))
                total = torch.zeros(width, dtype=torch.float64, device=device)
                for slot in present:
                    total += every[slot].double() * self._weights[slot]
            yield spans, total / mass

    def _sent(self, rows: Tensor) -> Tensor:
        started = time.perf_counter()
        every = self._exchange(rows, self._slots)
        self.exchange_s += time.perf_counter() - started
        return every


def _part(differences: Sequence[Tensor], span: Span) -> Tensor:
    return differences[span.tensor].reshape(-1)[span.start : span.stop]
