"""What the optimizer asks of its surroundings: where its slots are, and who combines the scalars.

The mathematics knows no federation. These are the seams at which a federation is plugged in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Slots(NamedTuple):
    """Which rows of a round's exchange this process fills.

    Attributes:
        size: Number of slots m of the cohort.
        own: Slots evaluated here, in the order of the losses given to ``step``.
        clients: The client in each of the m slots.
        weights: Examples held by the client of each of the m slots.
        shares: Where processes share a slot's probes: for each own slot this process's place among those that share
            it, and their number. Empty where every slot is evaluated by one process.
        population: Number of clients M that the cohort was sampled from; 0 where none was.
    """

    size: int
    own: tuple[int, ...]
    clients: tuple[int, ...]
    weights: tuple[float, ...]
    shares: tuple[tuple[int, int], ...] = ()
    population: int = 0


class Exchange(ABC):
    """The one collective of a round: own rows in, every row of the cohort out."""

    @abstractmethod
    def slots(self, local: int) -> Slots:
        """The slots of a round nobody sampled a cohort for: every process with ``local`` losses of its own."""

    @abstractmethod
    def __call__(self, rows: Tensor, slots: Slots) -> Tensor:
        """Places rows in their slots and returns the rows of all slots.

        Args:
            rows: This process's rows, fp32 on the CPU, shape ``[len(slots.own), width]``.
            slots: Where they belong.

        Returns:
            All rows, bit-equal on every process, shape ``[slots.size, width]``.
        """


class LocalExchange(Exchange):
    """The exchange of a single process: the identity."""

    def slots(self, local: int) -> Slots:
        """All slots are local."""
        return Slots(local, tuple(range(local)), tuple(range(local)), (1.0,) * local)

    def __call__(self, rows: Tensor, slots: Slots) -> Tensor:
        """Returns the rows in slot order, shape ``[slots.size, width]``."""
        out = rows.new_zeros((slots.size, rows.shape[1]))
        out[list(slots.own)] = rows
        return out + 0.0  # as a sum with zeros would: -0.0 becomes 0.0


class Transform(ABC):
    """What a client does to its scalars before they leave it: nothing, clipping, noise, signs.

    It must be a function of its arguments: where processes share a client's probes, each of them computes it.
    """

    @abstractmethod
    def __call__(self, scalars: NDArray[np.float32], *, round: int, client: int) -> NDArray[np.float32]:
        """Returns the scalars to send.

        Args:
            scalars: The client's scalars g, shape ``[tau, P]``.
            round: The round r.
            client: The client.
        """


class Aggregation(ABC):
    """How the cohort's scalars become one set: the mean, a weighted mean, a robust rule."""

    @abstractmethod
    def __call__(
        self, scalars: NDArray[np.float32], present: NDArray[np.bool_], weights: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Combines the slots.

        Every rank computes this for itself, so it must be a function of its arguments to the bit.

        Args:
            scalars: All slots, shape ``[m, tau, P]``; rows not present hold anything, NaN included.
            present: Which slots count, shape ``[m]``; at least one does.
            weights: Examples of each slot's client, shape ``[m]``.

        Returns:
            The aggregated scalars ghat, shape ``[tau, P]``.
        """


class Mean(Aggregation):
    r"""The plain mean over the slots present.

    .. math:: \hat g_{k,p} = \mathrm{fp32}\Big(\tfrac{1}{|present|} \sum_{slot} g_{slot,k,p}\Big)

    The sum runs in slot order in float64.
    """

    def __call__(
        self, scalars: NDArray[np.float32], present: NDArray[np.bool_], weights: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """See :class:`Aggregation`."""
        total = np.zeros(scalars.shape[1:], dtype=np.float64)
        for slot in np.flatnonzero(present):
            total = total + scalars[slot].astype(np.float64)
        return (total / float(present.sum())).astype(np.float32)
