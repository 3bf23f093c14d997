"""Who of a round's cohort answers, and how long each takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiso_pl.federation.cohort import sample_cohort
from hiso_pl.federation.presence.availability import DROPOUT, Availability, Clients, sample_available
from hiso_pl.federation.presence.speeds import Speeds
from hiso_pl.zeroth_order.interfaces import MethodBase
from hiso_pl.zeroth_order.philox import Purpose, uniform_each
from hiso_pl.zeroth_order.record import Bits

_TOGETHER = 1 << 16


class Attendance(NamedTuple):
    """Who of a round's cohort answers.

    Attributes:
        clients: The client of each slot.
        away: Slots whose client is not there.
        failed: Slots whose client is there and does not answer.
        late: Slots whose client takes longer than the deadline.
        bits: What the round costs a client; None where nobody has told of the method.
        seconds: Seconds of each slot's client, from the round's data to its answer; empty where speeds are not known.
        seconds_per_bit: What its link takes for a bit; likewise.
        deadline: Seconds after which a client is not waited for; None for no such.
    """

    clients: tuple[int, ...]
    away: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    late: tuple[int, ...] = ()
    bits: Bits | None = None
    seconds: tuple[float, ...] = ()
    seconds_per_bit: tuple[float, ...] = ()
    deadline: float | None = None

    @property
    def absent(self) -> tuple[int, ...]:
        """Slots whose client does not answer, ascending."""
        return tuple(sorted((*self.away, *self.failed, *self.late)))

    def why(self) -> str:
        """Why those do not answer that do not, in words."""
        found = [(self.away, "away (data.availability)"), (self.failed, "dropped out (data.dropout)")]
        words = [f"{len(slots)} of {len(self.clients)} {what}" for slots, what in found if slots]
        if self.late:
            fastest = min(self.seconds[slot] for slot in self.late)
            words.append(
                f"{len(self.late)} of {len(self.clients)} later than data.deadline={self.deadline:g}, the fastest "
                f"after {fastest:.4g} s"
            )
        return ", ".join(words)


@dataclass(frozen=True, eq=False)
class Presence:
    r"""Who answers in the rounds of a run: a pure function of the round.

    A client's time in a round is what it computes and what it sends and receives of the round,

    .. math::
        t_i = 2 \ell + \frac{\text{passes} \cdot \tau \cdot b_i}{v_i} + \frac{\text{up} + \text{down}}{w_i}

    with b the examples of a minibatch, v and w its speeds and l its latency. What it fetches before, to catch up, comes
    on top for the clock, not for the deadline, which counts from when it can begin.

    Args:
        seed: The run's seed.
        sizes: Examples each client owns.
        size: Clients in a cohort, m.
        batch_size: Examples in a minibatch.
        availability: Who is there; everybody if None.
        dropout: Probability that a client of the cohort that is there does not answer.
        deadline: Seconds after which a client is not waited for.
        speeds: How fast clients are.
        method: What a round computes; None where nobody has told.
        parameters: Number of trainable parameters.
    """

    seed: int
    sizes: NDArray[np.int64]
    size: int
    batch_size: int
    availability: Availability | None
    dropout: float
    deadline: float | None
    speeds: Speeds | None
    method: MethodBase | None
    parameters: int

    def __post_init__(self) -> None:
        """Checks what only all of it together can say.

        Raises:
            ValueError: If clients are to take time for nobody knows what.
        """
        if self.speeds is not None and self.method is None:
            raise ValueError(
                "speeds need to know what a client computes: hand it over by data.take(facts_of(module)) before the "
                "trainer starts"
            )

    @property
    def simulated(self) -> bool:
        """Whether anybody may be absent, or time is kept."""
        return self.availability is not None or self.dropout > 0.0 or self.speeds is not None

    def everybody(self, size: int) -> Presence:
        """The same with cohorts of another size, all of whom answer."""
        return replace(self, size=size, availability=None, dropout=0.0, deadline=None, speeds=None)

    def attendance(self, round: int) -> Attendance:
        """The cohort of a round, and who of it answers."""
        count, m = len(self.sizes), self.size
        if self.availability is None:
            found = Attendance(sample_cohort(self.seed, round, count, m))
        else:
            found = Attendance(*sample_available(self.availability, self.seed, round, count, m))
        if not self.simulated:
            return found
        numbers, asked = np.array(found.clients, dtype=np.int64), np.ones(m, dtype=np.bool_)
        asked[list(found.away)] = False
        failed = np.zeros(m, dtype=np.bool_)
        if self.dropout:
            drawn = uniform_each(self.seed, Purpose.PRESENCE, numbers, round=round, k=DROPOUT)
            failed = asked & (drawn < self.dropout)
        bits = None if self.method is None else self.method.bits_at(round, m, self.parameters)
        found = found._replace(failed=_slots(failed), bits=bits)
        if self.speeds is None:
            return found
        seconds, per_bit = self._times(numbers, round)
        limit = math.inf if self.deadline is None else self.deadline
        late = _slots(asked & ~failed & (seconds > limit))
        return found._replace(
            late=late,
            deadline=self.deadline,
            seconds=tuple(seconds.tolist()),
            seconds_per_bit=tuple(per_bit.tolist()),
        )

    def check(self, rounds: range) -> int | None:
        """Refuses rounds in which nobody could answer, as far as can be known before the first.

        Args:
            rounds: Rounds of the run.

        Returns:
            How many clients meet the deadline in the first of them; None without a deadline.

        Raises:
            ValueError: If nobody does, or the availability cannot speak of these clients or rounds.
        """
        if self.availability is not None:
            self.availability.check(len(self.sizes), rounds)
        if self.deadline is None:
            return None
        meet, fastest, whose = 0, math.inf, 0
        for start in range(0, len(self.sizes), _TOGETHER):
            seconds, _ = self._times(np.arange(start, min(start + _TOGETHER, len(self.sizes))), rounds.start)
            meet += int((seconds <= self.deadline).sum())
            if (best := float(seconds.min())) < fastest:
                fastest, whose = best, start + int(seconds.argmin())
        if not meet:
            raise ValueError(
                f"deadline={self.deadline:g} is met by nobody: the fastest of clients={len(self.sizes)}, client "
                f"{whose}, takes {fastest:.4g} s in round {rounds.start}; it must be more"
            )
        return meet

    def _times(self, clients: Clients, round: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Seconds of some clients in a round, and what their links take for a bit."""
        assert self.speeds is not None
        assert self.method is not None
        pace, method = self.speeds.of(self.seed, clients), self.method
        held = np.asarray(self.sizes)[clients]
        each = method.local_epochs * held if method.local_epochs else np.minimum(held, self.batch_size)
        steps = 1 if method.local_epochs else method.local_steps
        bits = method.bits_at(round, self.size, self.parameters)
        work = (method.passes_at(round) * steps) * each / pace.examples
        return 2.0 * pace.latency + work + (bits.up + bits.down) / pace.bits, 1.0 / pace.bits


def check_presence(dropout: float, deadline: float | None, speeds: Speeds | None) -> None:
    """Refuses options that leave nobody, or that do not go together.

    Raises:
        ValueError: If they are such.
    """
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout={dropout} must be at least 0 and below 1")
    if deadline is None:
        return
    if not (deadline > 0.0 and math.isfinite(deadline)):
        raise ValueError(f"deadline={deadline} must be finite and above 0 seconds, or null to wait for all")
    if speeds is None:
        raise ValueError(f"deadline={deadline} needs to know what clients take: set speeds, for example to LogNormal")


def _slots(which: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(which).tolist())
