"""A small problem whose gradients are known, and ranks that are threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hiso_pl.first_order import DifferenceMethod, DifferenceOptimizer
from hiso_pl.zeroth_order.interfaces import Exchange, Slots

SHAPES = ((4, 3), (5,), (2, 2, 2))


class Problem(NamedTuple):
    """Least squares: client i's loss in its step k is half the sum of ``(a x - b)^2`` over all numbers of x.

    Attributes:
        start: x_0.
        a: By client, step and tensor.
        b: By client, step and tensor.
    """

    start: list[Tensor]
    a: Callable[[int, int, int], Tensor]
    b: Callable[[int, int, int], Tensor]

    def loss(self, parameters: Sequence[Tensor], client: int, k: int) -> Tensor:
        """An fp32 loss for torch."""
        parts = [((self.a(client, k, t) * x - self.b(client, k, t)) ** 2).sum() for t, x in enumerate(parameters)]
        return torch.stack(parts).sum() / 2

    def gradient(self, x: Sequence[NDArray[np.float64]], client: int, k: int) -> list[NDArray[np.float64]]:
        """Its gradient by hand, float64."""
        found = []
        for t, value in enumerate(x):
            a, b = (f(client, k, t).numpy().astype(np.float64) for f in (self.a, self.b))
            found.append(a * (a * value - b))
        return found

    def optimizer(self, method: DifferenceMethod, **options: Any) -> DifferenceOptimizer:
        """An optimizer at x_0."""
        named = [(f"w{t}", nn.Parameter(x.clone())) for t, x in enumerate(self.start)]
        return DifferenceOptimizer(named, method, **options)

    def round(self, optimizer: DifferenceOptimizer, slots: Slots, round: int = 0) -> Tensor:
        """One round, whose slots are of the clients in them."""

        def of(slot: int) -> Callable[[int], Tensor]:
            return lambda k: self.loss(optimizer.parameters, slots.clients[slot], k + 10 * round)

        return optimizer.step(losses=[of(slot) for slot in slots.own], slots=slots)


@pytest.fixture(scope="session")
def problem(fixed) -> Problem:
    def of(kind: int) -> Callable[[int, int, int], Tensor]:
        # a salt moves all numbers by a little: far apart they are as good as independent
        return lambda client, k, t: fixed(
            SHAPES[t], (1 + kind + 2 * t + 10 * client + 1000 * k) * 2654435761 % (1 << 32)
        )

    return Problem([fixed(shape, 7919 + t) for t, shape in enumerate(SHAPES)], of(0), of(1))


class ThreadExchange(Exchange):
    """The exchange of ranks that are threads of one process: tables are added as an all-reduce adds them."""

    def __init__(self, meeting: threading.Barrier, tables: dict[int, Tensor], rank: int) -> None:
        self.meeting, self.tables, self.rank = meeting, tables, rank
        self.bytes = 0

    def slots(self, local: int) -> Slots:
        raise NotImplementedError

    def __call__(self, rows: Tensor, slots: Slots) -> Tensor:
        table = torch.zeros(slots.size, rows.shape[1])
        table[list(slots.own)] = rows
        self.bytes += 4 * table.numel()
        self.tables[self.rank] = table
        self.meeting.wait(30)
        # from the last rank to the first: no order of ranks may matter
        found = torch.stack([self.tables[rank] for rank in sorted(self.tables, reverse=True)]).sum(0)
        self.meeting.wait(30)
        return found + 0.0


@pytest.fixture(scope="session")
def on_ranks() -> Callable[..., list[Any]]:
    """Calls a function of (rank, exchange) on so many ranks at once, and gives what they give."""

    def on_ranks(ranks: int, work: Callable[[int, Exchange], Any]) -> list[Any]:
        meeting = threading.Barrier(ranks)
        tables: dict[int, Tensor] = {}
        found: dict[int, Any] = {}

        def run(rank: int) -> None:
            try:
                found[rank] = work(rank, ThreadExchange(meeting, tables, rank))
            except BaseException:
                meeting.abort()
                raise

        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [found[rank] for rank in range(ranks)]

    return on_ranks
