"""What an attack is: what hostile clients of a simulation send in place of their scalars."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.part import Part
from hiso_pl.zeroth_order.philox import MAX_LOCAL_STEPS, Draws, Purpose
from hiso_pl.zeroth_order.record import RoundRecord

LARGEST = float(np.finfo(np.float32).max)
FRACTION = 0.25
WHO = MAX_LOCAL_STEPS - 1  # the k of the draw of who is hostile, which no local step has


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
    sent. The record has what was aggregated, so that a replay need not know of the attack. Losses for the log are told
    as they are.

    Args:
        fraction: Share of all clients that are hostile, rounded to whole clients, who are drawn from the run's seed.
        clients: Which clients are, in place of a share.
        start: The first round in which they are; before it they are honest.

    Attributes:
        compares_slots: Whether it needs directions that all slots share.

    Raises:
        ValueError: If the share is not in [0, 1] or is given beside clients, if these are no numbers of clients, each
            once, or the round is none.
    """

    compares_slots: ClassVar[bool] = False

    def __init__(self, fraction: float = FRACTION, clients: list[int] | None = None, start: int = 0) -> None:
        if isinstance(fraction, bool) or not 0.0 <= fraction <= 1.0:
            raise ValueError(f"attack.fraction={fraction} must be in [0, 1]")
        if clients is not None:
            if not clients or any(type(c) is not int or c < 0 for c in clients) or len(set(clients)) < len(clients):
                raise ValueError(f"attack.clients={clients} must be numbers of clients, from 0 on, each once")
            if fraction != FRACTION:
                raise ValueError(
                    f"attack.fraction={fraction} and attack.clients={clients} exclude each other: give one"
                )
        if type(start) is not int or start < 0:
            raise ValueError(f"attack.start={start!r} must be a round, 0 or a later one")
        self.fraction = fraction
        self.clients = clients
        self.start = start

    def hostile(self, seed: int, population: int) -> NDArray[np.int64]:
        """The hostile clients among so many, ascending, read-only.

        Raises:
            ValueError: If one is named that there is not.
        """
        if self.clients is None:
            return _drawn(seed, population, math.floor(self.fraction * population + 0.5))
        if max(self.clients) >= population:
            raise ValueError(
                f"attack.clients={self.clients} must be below clients={population}: they are numbered from 0"
            )
        return np.array(sorted(self.clients), dtype=np.int64)

    def among(self, clients: Sequence[int], seed: int, population: int, round: int) -> NDArray[np.bool_]:
        """Which of some clients are hostile in a round, shape ``[len(clients)]``."""
        whose = self.hostile(seed, population) if round >= self.start else np.zeros(0, dtype=np.int64)
        asked = np.asarray(clients, dtype=np.int64)
        if not len(whose):
            return np.zeros(len(asked), dtype=np.bool_)
        return np.asarray(whose[np.minimum(np.searchsorted(whose, asked), len(whose) - 1)] == asked)

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

    def labels(self, labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
        """What hostile clients take the labels of their training examples for, of so many classes."""
        return labels

    @property
    def flips_labels(self) -> bool:
        """Whether the training examples of hostile clients have other labels."""
        return type(self).labels is not Attack.labels

    def attacked(
        self, scalars: NDArray[np.float32], present: NDArray[np.bool_], scene: Scene
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """All slots as they are aggregated, and which of them are hostile and present.

        What hostile clients send is cut to the range of fp32, and a number that is none is sent as zero: they stay in
        the round, where one that is not finite would only leave it.

        Raises:
            ValueError: If the attack gives rows of another shape.
        """
        hostile = present & self.among(scene.clients, scene.seed, scene.population, scene.round)
        if not hostile.any():
            return scalars, hostile
        rows = np.asarray(self(scalars.copy(), hostile.copy(), present.copy(), scene), dtype=np.float64)
        wanted = (int(hostile.sum()), *scalars.shape[1:])
        if rows.shape != wanted:
            raise ValueError(f"attack={self!r} gave shape {rows.shape}, must give {wanted}")
        sent = scalars.copy()
        sent[hostile] = np.clip(np.nan_to_num(rows, nan=0.0), -LARGEST, LARGEST).astype(np.float32) + np.float32(0.0)
        return sent, hostile


@lru_cache(maxsize=8)  # it is asked in every round, of a population that may be a million
def _drawn(seed: int, population: int, count: int) -> NDArray[np.int64]:
    drawn = Draws(seed, Purpose.ATTACK, k=WHO).sample(population, count)
    drawn.setflags(write=False)
    return drawn
