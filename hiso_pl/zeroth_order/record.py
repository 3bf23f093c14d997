"""The round record: all that an update needs."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_PIECE = 1 << 12

BITS_PER_SCALAR = 32


class SlotSet(Collection[int]):
    """Slots of a cohort, ascending, a bit each: a file of megabytes may tell of millions in every record.

    Args:
        bits: Slot s is bit ``s & 7`` of byte ``s >> 3``.
    """

    def __init__(self, bits: NDArray[np.uint8]) -> None:
        self.bits = bits
        self._size = int(np.bitwise_count(bits).sum(dtype=np.int64))

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        for first in range(0, len(self.bits), _PIECE):
            piece = np.unpackbits(self.bits[first : first + _PIECE], bitorder="little")
            yield from (np.flatnonzero(piece) + 8 * first).tolist()

    def __contains__(self, slot: object) -> bool:
        return isinstance(slot, int) and 0 <= slot < 8 * len(self.bits) and bool(self.bits[slot >> 3] >> (slot & 7) & 1)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SlotSet | tuple):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash(self.bits.tobytes())

    def __repr__(self) -> str:
        return told(self)


def told(slots: Collection[int], most: int = 20) -> str:
    """Slots as they are said: the first of them, and how many there are."""
    words = ", ".join(map(str, islice(slots, most)))
    return words if len(slots) <= most else f"{words}, ... {len(slots)} in all"


@dataclass(frozen=True)
class RoundRecord:
    """What a round decided. With the state before the round it determines the state after it, to the bit.

    Attributes:
        round: The round r.
        lr: Learning rate, as a Python float.
        mu: Size of the displacements, as a Python float.
        scalars: Aggregated scalars ghat, fp32, shape ``[tau, P]``; zeros if every slot was dropped. Where slots have
            directions of their own, ``[tau, m P]``: those of slot i are i P to i P + P - 1, zeros if it was dropped.
        cohort: Number of slots m.
        dropped: Slots left out because a scalar of theirs was not finite, ascending; a tuple, or a :class:`SlotSet`.

    Raises:
        ValueError: If a field cannot be.
    """

    round: int
    lr: float
    mu: float
    scalars: NDArray[np.float32]
    cohort: int
    dropped: tuple[int, ...] | SlotSet = ()

    def __post_init__(self) -> None:
        """Checks the fields."""
        if self.round < 0:
            raise ValueError(f"round={self.round} must not be negative")
        if not math.isfinite(self.lr) or self.lr < 0:
            raise ValueError(f"lr={self.lr} must be finite and not negative")
        if not math.isfinite(self.mu) or self.mu <= 0:
            raise ValueError(f"mu={self.mu} must be finite and positive")
        if self.scalars.dtype != np.float32 or self.scalars.ndim != 2 or 0 in self.scalars.shape:
            raise ValueError(f"scalars of {self.scalars.dtype} and shape {self.scalars.shape} must be fp32, [tau, P]")
        if not np.isfinite(self.scalars).all():
            raise ValueError(f"scalars of round {self.round} are not all finite: drop such slots before aggregating")
        if isinstance(self.dropped, SlotSet):
            beyond = SlotSet(self.dropped.bits[self.cohort >> 3 :])
            right = not any(slot >= self.cohort & 7 for slot in islice(beyond, 8))
        else:
            right = all(0 <= slot < self.cohort for slot in self.dropped)
        if self.cohort < 1 or not right:
            raise ValueError(f"dropped={told(self.dropped)} must be slots of a cohort of {self.cohort}")

    def as_data(self) -> dict[str, Any]:
        """The fields as plain numbers, which lose nothing."""
        return {**vars(self), "scalars": self.scalars.tolist(), "dropped": list(self.dropped)}

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> RoundRecord:
        """The record that :meth:`as_data` told of, by a file that anyone may have made.

        Raises:
            ValueError: If it is none.
        """
        try:
            plain = {**data, "scalars": np.array(data["scalars"], np.float32), "dropped": tuple(data["dropped"])}
            if any(type(number) is not int for number in (plain["round"], plain["cohort"], *plain["dropped"])):
                raise ValueError("round, cohort and slots must be integers")
            if any(type(plain[name]) not in (int, float) for name in ("lr", "mu")):
                raise ValueError("lr and mu must be numbers")
            return cls(**plain)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"record is no round's record: {' '.join(str(error).split())[:200]}") from error

    def told(self) -> str:
        """What an update by it is made with, in words."""
        return f"lr={self.lr:g} and scalars up to {float(np.abs(self.scalars).max()):g}"

    @property
    def empty(self) -> bool:
        """Whether every slot was dropped, so that x and H stay as they are."""
        return len(self.dropped) == self.cohort


class Bits(NamedTuple):
    """What a round costs a client to send and to receive, in bits.

    Attributes:
        up: Sent by a client of the cohort.
        down: Received of the round by a client.
        missed: Whether a client that sits a round out receives it later, as records have to be applied one after the
            other; otherwise it takes what is there when its turn comes.
    """

    up: int
    down: int
    missed: bool = True


class RoundReport(NamedTuple):
    """What a round looked like, for logs. Nothing of it enters the state.

    What a method does not have is None: one that sends tensors has no scalars, one that takes gradients no mu.

    Attributes:
        round: The round r.
        loss: Mean of the cohort's losses at the start of the round, over those present; None if none is, or if clients
            withhold their losses.
        scalars: Aggregated scalars, as in the record.
        clients: The client of each slot of the cohort.
        dropped: Slots dropped.
        lr: Learning rate.
        mu: Size of the displacements.
        num_directions: P.
        probe_s: Seconds this process spent on its slots: displacements, forwards and, where there are any, gradients.
        update_s: Seconds this process spent in ``apply``.
        forwards: Forwards of the whole cohort.
        bits: What the round costs a client.
        sent: Scalars of every slot as exchanged, shape ``[m, tau, P]``.
        slot_losses: Loss of every slot at the start of the round, shape ``[m]``; NaN where it is withheld.
        displace_s: Seconds of ``probe_s`` that this process spent writing displaced points, host time.
        exchange_s: Seconds this process spent in the exchange, waiting for others included.
        figures: What else the curves are to show of the round, by name.
        backwards: Backward passes of the whole cohort.
        absent: Those of the slots dropped whose client did not answer.
        hostile: Slots that a simulated attack spoke for.
    """

    round: int
    loss: float | None
    scalars: NDArray[np.float32] | None
    clients: tuple[int, ...]
    dropped: Collection[int]
    lr: float
    mu: float | None
    num_directions: int | None
    probe_s: float
    update_s: float
    forwards: int
    bits: Bits
    sent: NDArray[np.float32] | None
    slot_losses: NDArray[np.float32]
    displace_s: float = 0.0
    exchange_s: float = 0.0
    figures: Mapping[str, float] = MappingProxyType({})
    backwards: int = 0
    absent: tuple[int, ...] = ()
    hostile: tuple[int, ...] = ()

    @property
    def faults(self) -> tuple[int, ...]:
        """Slots dropped for what their clients found, not because these, or too few of the others, do not answer."""
        missing = set(self.absent)
        found = (slot for slot in self.dropped if slot not in missing)
        if not missing or self.sent is None:
            return tuple(found)
        return tuple(slot for slot in found if not np.isfinite(self.sent[slot]).all())
