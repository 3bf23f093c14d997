"""Who did not come: a collective that failed is turned into an error that names the ranks missing from it.

Nothing of it is sent while all goes well. When a collective fails on a rank, by time-out or because a connection was
lost, the rank notes in the launch's store that it had come, leaves the process group, so that those who wait for it
fail as well, and reads who else has come. The first to decide writes the verdict, and all raise it in the same words.
A rank that hangs can note nothing; a thread of its own ends it when it has been given up.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from hiso_pl.errors import RunError
from hiso_pl.ranks import patience, place
from hiso_pl.ranks.patience import within
from hiso_pl.ranks.watch import Watch

log = logging.getLogger(__name__)

BACKENDS = r"(?i)gloo|nccl"  # gloo's errors are plain RuntimeErrors, with the place in its source in front
TIMED_OUT = r"(?i)timed? ?-?out"


class LostRankError(RunError):
    """A collective failed; the message, one line, says which ranks did not come to it."""


class RollCall:
    """One rank's part in the roll calls of a process group.

    Attributes:
        rounds_done: Tells how many rounds are done.
        watch: What ends this process if the others give it up.

    Args:
        store: The group's own store, which no earlier group has used.
        rank: This rank.
        world: Number of ranks.
        timeout_s: Seconds that the group's collectives wait.
    """

    def __init__(self, store: Store, rank: int, world: int, timeout_s: float) -> None:
        self.rounds_done: Callable[[], int] = lambda: 0
        self._store, self._rank, self._world, self._timeout_s = store, rank, world, timeout_s
        self.watch = Watch(timeout_s, self._said)
        self._store.set(f"place/{rank}", json.dumps(place.own_place()))

    @contextmanager
    def meeting(self, what: str) -> Iterator[None]:
        """See the function of that name."""
        began = time.monotonic()
        with self.watch.among_others():
            try:
                yield
            except RuntimeError as error:
                if not _of_the_network(error):
                    raise
                late = time.monotonic() - began >= self._timeout_s
                raise LostRankError(self._verdict(what, error, late)) from error

    @contextmanager
    def connecting(self) -> Iterator[None]:
        """Wraps the making of the group: all ranks are there by then, and what can fail is the way between them."""
        try:
            with self.watch.connecting():
                yield
        except RuntimeError as error:
            if not _of_the_network(error):
                raise
            there = ", ".join(name for _, name in socket.if_nameindex())
            text = (
                f"the ranks cannot connect to one another: name the network interface that joins their machines by "
                f"trainer.strategy.init_args.interface (rank {self._rank}'s machine {socket.gethostname()} has {there})"
            )
            said = within(patience.STORE_S, lambda: self._store.compare_set("verdict", "", text).decode(), text)
            raise LostRankError(said) from error

    def farewell(self, words: str) -> None:
        """Leaves word for those who will miss this rank; what was found out before stands."""
        within(patience.STORE_S, lambda: self._store.compare_set("verdict", "", words), None)

    def explain(self, error: BaseException) -> None:
        """Puts into the error of a collective that was not wrapped which ranks did not come to it."""
        if _of_the_network(error):
            error.args = (self._verdict("to a collective after round {done}", error),)

    def _verdict(self, what: str, error: BaseException, late: bool = False) -> str:
        """Finds out who is missing, and agrees with the others on what to say of it."""
        late = late or bool(re.search(TIMED_OUT, str(error)))
        done = self.rounds_done()
        what = what.format(done=done, next=done + 1)
        log.debug("lost %s: %s", what, error)
        within(patience.STORE_S, lambda: self._store.set(f"came/{self._rank}", what), None)
        if dist.is_initialized():
            dist.destroy_process_group()  # those who wait for this rank are to wait no longer
        seconds = patience.LATE_S if late else patience.LOST_S
        found = within(seconds + patience.STORE_S, lambda: self._decide(what, late, seconds), None)
        if found is None:
            return f"the launch's store was lost on the way {what}: the process or machine that keeps it has ended"
        return found

    def _decide(self, what: str, late: bool, seconds: float) -> str:
        until = time.monotonic() + seconds
        while True:
            said = self._said()
            if said:
                return said
            missing = [rank for rank in range(self._world) if not self._store.check([f"came/{rank}"])]
            states = {rank: place.state(self._place(rank)) for rank in missing}
            ended = [rank for rank in missing if states[rank] == "ended"]
            if not missing or (ended and not late) or time.monotonic() > until:
                break
            time.sleep(patience.POLL_S)
        if not late:  # somebody has ended; those known to live only come later
            missing = ended or [rank for rank in missing if states[rank] is None] or missing
        for rank in missing:
            if states[rank] == "stopped":
                place.wake(self._place(rank))  # it finds itself given up, and ends
        text = self._text(what, late, missing, states)
        return self._store.compare_set("verdict", "", text).decode()

    def _text(self, what: str, late: bool, missing: list[int], states: dict[int, str | None]) -> str:
        if not missing:
            return (
                f"all {self._world} ranks came {what}, and yet they lost one another: the network between them failed"
            )
        ranks = "rank " if len(missing) == 1 else "ranks "
        ranks += ", ".join(f"{rank} ({place.named(self._place(rank))})" for rank in missing)
        within_s = f" within timeout_s={self._timeout_s:g}" if late else ""
        one = len(missing) == 1
        why = {
            frozenset({"ended"}): "it has ended" if one else "they have ended",
            frozenset({"stopped"}): "it is stopped by a signal" if one else "they are stopped by a signal",
            frozenset({"alive"}): "it hangs or takes longer" if one else "they hang or take longer",
        }.get(
            frozenset(states[rank] or "" for rank in missing),
            "it hangs or has ended" if one else "they hang or have ended",
        )
        return f"{ranks} did not come {what}{within_s}: {why}"

    def _said(self) -> str | None:
        return self._store.get("verdict").decode() if self._store.check(["verdict"]) else None

    def _place(self, rank: int) -> dict[str, Any]:
        key = f"place/{rank}"
        found = json.loads(self._store.get(key)) if self._store.check([key]) else {}
        assert isinstance(found, dict)
        return found


_current: RollCall | None = None


def begin(store: Store, rank: int, world: int, timeout_s: float) -> RollCall:
    """Begins the roll calls of a process group, as :class:`RollCall` describes them."""
    global _current
    close_roll_call()
    _current = RollCall(store, rank, world, timeout_s)
    return _current


def current() -> RollCall | None:
    """The roll call of this process's group, if it has one."""
    return _current


def close_roll_call() -> None:
    """Ends the roll calls, with the group."""
    global _current
    if _current is not None:
        _current.watch.end()
    _current = None


@contextmanager
def meeting(what: str) -> Iterator[None]:
    """Wraps a collective, so that its failure names the ranks that did not come to it.

    Args:
        what: Where the ranks meet, as it follows "did not come": ``to the exchange of round 3``. ``{done}`` stands for
            the number of rounds done, ``{next}`` for the number of the one under way, counted from 1.

    Raises:
        LostRankError: If the collective fails because of another rank or the network.
    """
    roll = _current
    if roll is None:
        yield
        return
    with roll.meeting(what):
        yield


def _of_the_network(error: BaseException) -> bool:
    """Whether an error tells of other ranks or the network, and not yet of which."""
    if isinstance(error, LostRankError) or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or bool(re.search(BACKENDS, str(error)))
