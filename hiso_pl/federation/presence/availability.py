"""What an availability is, and cohorts that are sampled among the clients that are there."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.philox import Draws, Purpose

Clients = NDArray[np.int64]

# The second index of the streams of presence: one stream for each thing that is drawn.
THERE, ZONE, OTHERS, DROPOUT = range(4)

_MOST = 1 << 20
_SEARCHED = 4
"""Beyond one in so many clients drawn one after another, all of them are looked at."""


class Availability(ABC):
    """Which clients are there in a round: a pure function of seed, round and client."""

    @abstractmethod
    def there(self, seed: int, clients: Clients, round: int) -> NDArray[np.bool_]:
        """Whether each of some clients is there in a round, shape ``[n]``; whoever else is asked for is no matter.

        Args:
            seed: The run's seed.
            clients: Their numbers, shape ``[n]``.
            round: The round r.
        """

    def fingerprint(self) -> str:
        """A hash of what it reads from elsewhere; empty if its options are all that it is."""
        return ""

    def check(self, clients: int, rounds: range) -> None:  # noqa: B027
        """Refuses clients or rounds that this cannot speak of.

        Args:
            clients: Number of clients M.
            rounds: Rounds of the run.

        Raises:
            ValueError: If there are such.
        """


def check_share(name: str, share: float) -> None:
    """Refuses a share of clients that is none.

    Raises:
        ValueError: If it is not in (0, 1].
    """
    if not (isinstance(share, int | float) and 0.0 < share <= 1.0):
        raise ValueError(f"{name}={share} must be above 0 and at most 1")


def sample_available(
    availability: Availability, seed: int, round: int, clients: int, size: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The clients of a round, sampled among those that are there, ascending, and which slots are not.

    The cohort is that of :func:`~hiso_pl.federation.cohort.sample_cohort` where all of it is there. Clients of it that
    are not give their slots to others, drawn until enough are there: so every subset of those that are there is equally
    likely, and the cost is that of m / share clients, not of all. Should fewer be there than slots, clients that are
    away keep the rest.

    Args:
        availability: Who is there.
        seed: The run's seed.
        round: The round r.
        clients: Number of clients M.
        size: Clients in a cohort, m.

    Returns:
        The client of each slot, and the slots whose client is away.
    """
    first = Draws(seed, Purpose.COHORT, round=round).sample(clients, size)
    there = availability.there(seed, first, round)
    found, away = first[there].tolist(), first[~there].tolist()
    seen, others, together = set(first.tolist()), Draws(seed, Purpose.PRESENCE, round=round, k=OTHERS), 2 * size
    while len(found) < size and len(seen) * _SEARCHED < clients:
        drawn = [draw * clients >> 64 for draw in others.uint64(together).tolist()]
        together *= 2
        new = np.array([client for client in dict.fromkeys(drawn) if client not in seen], dtype=np.int64)
        seen.update(new.tolist())
        found += new[availability.there(seed, new, round)].tolist()
    if len(found) < size:
        rest = np.setdiff1d(np.arange(clients), np.array(sorted(seen)), assume_unique=True)
        rest = rest[availability.there(seed, rest, round)]
        missing = min(size - len(found), len(rest))
        found += rest[others.sample(len(rest), missing)].tolist()
    cohort = sorted(found[:size] + away[: max(0, size - len(found))])
    absent = set(away)
    return tuple(cohort), tuple(slot for slot, client in enumerate(cohort) if client in absent)


def check_whole(name: str, value: int, least: int = 1) -> None:
    """Refuses a number of rounds or zones that is none.

    Raises:
        ValueError: If it is no whole number in ``[least, 2**20]``.
    """
    if type(value) is not int or not least <= value <= _MOST:
        raise ValueError(f"{name}={value} must be a whole number in [{least}, {_MOST}]")
