"""What it costs that clients are away: records they catch up with, and the seconds of a simulated clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hiso_pl.federation.presence.attendance import Attendance
from hiso_pl.federation.traffic import BITS_PER_BYTE, BYTES_PER_KB


class Clock:
    r"""Counts, round by round, what clients fetch that were away, and how long a round takes.

    A client that takes part fetches the records of the rounds since it took part last, of all rounds if it never did.
    Those of a method whose models travel fetch the model in any case, and nothing besides. With c what that takes over
    the client's own link and t the time it needs then (:class:`~.attendance.Presence`), a round lasts

    .. math::
        \max_i \big(c_i + \min(t_i, \text{deadline})\big)

    over the clients that answer and, where there is a deadline, over those that were waited for in vain, who take all
    of it. Without a deadline a client that drops out is not waited for.

    Args:
        clients: Number of clients M.

    Attributes:
        rounds: Rounds counted.
        seconds: Seconds of the simulated clock.
        absent: Slots whose client did not answer.
    """

    def __init__(self, clients: int) -> None:
        self.clients = clients
        self.rounds = 0
        self.seconds = 0.0
        self.absent = 0
        self._sent = 0  # bits of all records so far
        self._fetched = 0
        # of each client that ever took part: the record it needs next, and the bits of those before
        self._seen: dict[int, tuple[int, int]] = {}
        self._missed: list[int] = []
        self._absent_now = self._late = 0
        self._timed = self._limited = False

    @property
    def catch_up_kb(self) -> float:
        """KB fetched to catch up, averaged over all clients."""
        return self._fetched / BITS_PER_BYTE / BYTES_PER_KB / self.clients

    @property
    def figures(self) -> dict[str, float]:
        """The last round, and sums over all, for the curves."""
        missed = self._missed
        found = {
            "presence/absent": float(self._absent_now),
            "presence/missed_rounds": sum(missed) / len(missed) if missed else 0.0,
            "presence/missed_rounds_max": float(max(missed, default=0)),
            "comm/catch_up_kb": self.catch_up_kb,
        }
        if self._limited:
            found["presence/late"] = float(self._late)
        return found | ({"time/simulated_s": self.seconds} if self._timed else {})

    def record(self, round: Attendance) -> None:
        """Counts a round; they come one after another."""
        assert round.bits is not None
        absent, away, r = set(round.absent), set(round.away), self.rounds
        down = round.bits.down if round.bits.missed else 0
        self._timed, self._limited = bool(round.seconds), round.deadline is not None
        self._missed, lasted = [], 0.0
        for slot, client in enumerate(round.clients):
            if slot in away:
                continue
            following, had = self._seen.get(client, (0, 0))
            self._missed.append(r - following)
            fetched = self._sent - had
            self._fetched += fetched
            answers = slot not in absent
            self._seen[client] = (r + 1, self._sent + down) if answers else (r, self._sent)
            if round.seconds and (answers or round.deadline is not None):
                needed = round.seconds[slot] if answers else round.deadline
                assert needed is not None
                lasted = max(lasted, fetched * round.seconds_per_bit[slot] + needed)
        self.seconds += lasted
        self.absent += len(absent)
        self._absent_now, self._late = len(absent), len(round.late)
        self._sent += down
        self.rounds += 1

    def state_dict(self) -> dict[str, Any]:
        """All of it, as plain data."""
        table = [[client, *entry] for client, entry in self._seen.items()]
        return {
            "rounds": self.rounds,
            "seconds": self.seconds,
            "absent": self.absent,
            "sent": self._sent,
            "fetched": self._fetched,
            "seen": {"clients": torch.tensor(table, dtype=torch.int64).view(-1, 3)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state saved before.

        Raises:
            ValueError: If it is none of as many clients.
        """
        table = state["seen"].get("clients")
        right = isinstance(table, torch.Tensor) and table.dtype == torch.int64 and table.shape[1:] == (3,)
        if not right or (len(table) and (int(table.min()) < 0 or int(table[:, 0].max()) >= self.clients)):
            raise ValueError(f"the checkpoint is damaged: seen must tell of clients below {self.clients}")
        self.rounds, self.seconds, self.absent = int(state["rounds"]), float(state["seconds"]), int(state["absent"])
        self._sent, self._fetched = int(state["sent"]), int(state["fetched"])
        self._seen = {client: (following, had) for client, following, had in table.tolist()}
