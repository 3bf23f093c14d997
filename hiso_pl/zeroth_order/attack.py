"""What an attack is: what hostile clients of a simulation send in place of their scalars."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.part import Part
from hiso_pl.zeroth_order.philox import Draws, Purpose
from hiso_pl.zeroth_order.record import RoundRecord

LARGEST = float(np.finfo(np.float32).max)


class Scene(NamedTuple):
    """The round that hostile clients find themselves in.

    Attributes:
        seed: The run's seed.
        round: The round r.
        clients: The client of each slot.
        population: Number of clients M.
        before: The record of the round before; None at the start.
        own_directions: Whether each slot has directions of its own.
    """

    seed: int
    round: int
    clients: tuple[int, ...]
    population: int
    before: RoundRecord | None
    own_directions: bool = False


class Attack(Part, ABC):
    """What hostile clients of a simulation send in place of their scalars.

    It acts between exchange and aggregation, on every rank alike, so it is a function of its arguments to the bit: what
    is random is drawn from the stream of :attr:`~.philox.Purpose.ATTACK`. Hostile clients may know all that honest ones
    sent. The record has what was aggregated, so that a replay need not know of the attack.

    Args:
        fraction: Share of all clients that are hostile, rounded to whole clients, who are drawn from the run's seed.
        clients: Which clients are, in place of a share.

    Attributes:
        compares_slots: Whether it needs directions that all slots share.
        flips_labels: Whether the labels of hostile clients' training examples are to be flipped.

    Raises:
        ValueError: If the share is not in [0, 1], or a client's number is negative or given twice.
    """

    compares_slots: ClassVar[bool] = False
    flips_labels: ClassVar[bool] = False

    def __init__(self, fraction: float = 0.25, clients: list[int] | None = None) -> None:
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"fraction={fraction} must be in [0, 1]")
        if clients is not None and (min(clients, default=0) < 0 or len(set(clients)) < len(clients)):
            raise ValueError(f"clients={clients} must be numbers of clients, each once")
        self.fraction = fraction
        self.clients = clients

    def hostile(self, seed: int, population: int) -> frozenset[int]:
        """The hostile clients among so many.

        Raises:
            ValueError: If one is named that there is not.
        """
        if self.clients is not None:
            if self.clients and max(self.clients) >= population:
                raise ValueError(f"attack.clients={self.clients} must be below clients={population}")
            return frozenset(self.clients)
        count = math.floor(self.fraction * population + 0.5)
        if not count:
            return frozenset()
        return frozenset(Draws(seed, Purpose.ATTACK).sample(population, count).tolist())

    @abstractmethod
    def __call__(
        self, scalars: NDArray[np.float32], hostile: NDArray[np.bool_], present: NDArray[np.bool_], scene: Scene
    ) -> NDArray[np.float64]:
        """What the hostile slots send.

        Args:
            scalars: What every slot would send, shape ``[m, tau, P]``; rows not present hold anything, NaN included.
            hostile: Which slots are hostile and present, shape ``[m]``; at least one is.
            present: Which slots are there, shape ``[m]``.
            scene: The round.

        Returns:
            The rows of the hostile slots, in slot order, shape ``[hostile, tau, P]``.
        """

    def attacked(
        self, scalars: NDArray[np.float32], present: NDArray[np.bool_], scene: Scene
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """All slots as they are aggregated, and which of them are hostile and present.

        What hostile clients send is cut to the range of fp32, and a number that is none is sent as zero: they stay in
        the round, where one that is not finite would only leave it.
        """
        whose = self.hostile(scene.seed, scene.population)
        hostile = present & np.array([client in whose for client in scene.clients], dtype=np.bool_)
        if not hostile.any():
            return scalars, hostile
        rows = np.asarray(self(scalars.copy(), hostile.copy(), present.copy(), scene), dtype=np.float64)
        wanted = (int(hostile.sum()), *scalars.shape[1:])
        if rows.shape != wanted:
            raise ValueError(f"attack={self!r} gave shape {rows.shape}, must give {wanted}")
        sent = scalars.copy()
        sent[hostile] = np.clip(np.nan_to_num(rows, nan=0.0), -LARGEST, LARGEST).astype(np.float32) + np.float32(0.0)
        return sent, hostile
