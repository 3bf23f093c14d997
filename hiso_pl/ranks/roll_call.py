"""Who did not come: a collective that failed is turned into an error that names the ranks missing from it.

Nothing of it is sent while all goes well. When a collective fails on a rank, by time-out or because a connection was
lost, the rank notes in the launch's store that it had come, leaves the process group, so that those who wait for it
fail as well, and reads who else has come. The first to decide writes the verdict, and all raise it in the same words.

A rank that hangs can note nothing, and torchrun ends it late: it sends SIGTERM, which a run defers to its round's end,
and SIGKILL after TORCH_ELASTIC_SHUTDOWN_TIMEOUT seconds. So each rank has a thread that, once the rank has been away
from the others for longer than the time-out, looks whether it has been given up, and ends the process then. It needs
Python's lock, which nearly all of torch lets go while it computes or waits for a device.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import re
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from hiso_pl.errors import RunError

log = logging.getLogger(__name__)

T = TypeVar("T")
U = TypeVar("U")

START_S = 600.0  # at least, for all ranks to start: to import, to read the model, perhaps to download it
PATIENCE_S = 3.0  # for others to note that they had come, after a time-out: leaving the group makes them fail at once
PATIENCE_LOST_S = 10.0  # the same after a lost connection: others may be in a forward and learn of it later
POLL_S = 0.05
STORE_S = 10.0  # for the store to answer at all
SILENCES = 3
TRACEBACK = "HISO_PL_TRACEBACK"
BACKENDS = r"(?i)gloo|nccl"  # gloo's errors are plain RuntimeErrors, with the place in its source in front
TIMED_OUT = r"(?i)timed? ?-?out"


class LostRankError(RunError):
    """A collective failed; the message, one line, says which ranks did not come to it."""


class RollCall:
    """One rank's part in the roll calls of a process group.

    Attributes:
        rounds_done: Tells how many rounds are done.

    Args:
        store: The group's own store, which no earlier group has used.
        rank: This rank.
        world: Number of ranks.
        timeout_s: Seconds that the group's collectives wait.
    """

    def __init__(self, store: Store, rank: int, world: int, timeout_s: float) -> None:
        self.rounds_done: Callable[[], int] = lambda: 0
        self._store, self._rank, self._world, self._timeout_s = store, rank, world, timeout_s
        self._met = time.monotonic()  # when this rank last left the others
        self._inside = 0
        self._connects = False
        self._left = threading.Event()
        self._store.set(f"place/{rank}", json.dumps(_own_place()))

    def leave(self) -> None:
        """Ends the thread."""
        self._left.set()

    @contextmanager
    def meeting(self, what: str) -> Iterator[None]:
        """See the function of that name."""
        began = time.monotonic()
        self._inside += 1
        try:
            yield
        except RuntimeError as error:
            if not _of_the_network(error):
                raise
            late = time.monotonic() - began >= self._timeout_s
            raise LostRankError(self._verdict(what, error, late)) from error
        finally:
            self._inside -= 1
            self._met = time.monotonic()

    @contextmanager
    def connecting(self) -> Iterator[None]:
        """Wraps the making of the group: all ranks are there by then, and what can fail is the way between them.

        From here on a thread looks whether the others have given this rank up. While they connect it does so at once,
        as gloo waits for a connection several times as long as it is told to.
        """
        self._connects = True
        threading.Thread(target=self._watch, name="hiso_pl-roll-call", daemon=True).start()
        try:
            yield
        except RuntimeError as error:
            self._connects = False
            if not _of_the_network(error):
                raise
            there = ", ".join(name for _, name in socket.if_nameindex())
            text = (
                f"the ranks cannot connect to one another: name the network interface that joins their machines by "
                f"trainer.strategy.init_args.interface (rank {self._rank}'s machine {socket.gethostname()} has {there})"
            )
            said = within(STORE_S, lambda: self._store.compare_set("verdict", "", text).decode(), text)
            raise LostRankError(said) from error
        finally:
            self._connects = False
            self._met = time.monotonic()

    def words(self, message: str) -> str:
        """How the others say what this rank ended with."""
        return f"rank {self._rank} has ended: {message}"

    def farewell(self, words: str) -> None:
        """Leaves word for those who will miss this rank; what was found out before stands."""
        within(STORE_S, lambda: self._store.compare_set("verdict", "", words), None)

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
        within(STORE_S, lambda: self._store.set(f"came/{self._rank}", what), None)
        if dist.is_initialized():
            dist.destroy_process_group()  # those who wait for this rank are to wait no longer
        patience = PATIENCE_S if late else PATIENCE_LOST_S
        found = within(patience + STORE_S, lambda: self._decide(what, late, patience), None)
        if found is None:
            return f"the launch's store was lost on the way {what}: the process or machine that keeps it has ended"
        return found

    def _decide(self, what: str, late: bool, patience: float) -> str:
        until = time.monotonic() + patience
        while True:
            said = self._said()
            if said:
                return said
            missing = [rank for rank in range(self._world) if not self._store.check([f"came/{rank}"])]
            states = {rank: self._state(rank) for rank in missing}
            ended = [rank for rank in missing if states[rank] == "ended"]
            if not missing or (ended and not late) or time.monotonic() > until:
                break
            time.sleep(POLL_S)
        if not late:  # somebody has ended; those known to live only come later
            missing = ended or [rank for rank in missing if states[rank] is None] or missing
        for rank in missing:
            if states[rank] == "stopped":
                self._wake(rank)
        text = self._text(what, late, missing, states)
        return self._store.compare_set("verdict", "", text).decode()

    def _text(self, what: str, late: bool, missing: list[int], states: dict[int, str | None]) -> str:
        if not missing:
            return (
                f"all {self._world} ranks came {what}, and yet they lost one another: the network between them failed"
            )
        ranks = "rank " if len(missing) == 1 else "ranks "
        ranks += ", ".join(f"{rank} ({self._where(rank)})" for rank in missing)
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
        place = json.loads(self._store.get(key)) if self._store.check([key]) else {}
        assert isinstance(place, dict)
        return place

    def _where(self, rank: int) -> str:
        place = self._place(rank)
        return f"process {place['pid']} on {place['host']}" if place else "never seen"

    def _state(self, rank: int) -> str | None:
        """Whether another rank's process has ended, is stopped or is alive; None where it is not on this machine."""
        place = self._place(rank)
        if not place or not place["machine"] or place["machine"] != _own_place()["machine"]:
            return None
        now = _process(int(place["pid"]))
        if now is None or now[1] != place["started"] or now[0] in "ZX":
            return "ended"
        return "stopped" if now[0] in "Tt" else "alive"

    def _wake(self, rank: int) -> None:
        """Lets a stopped process go on: it finds itself given up, and ends."""
        try:
            os.kill(int(self._place(rank)["pid"]), signal.SIGCONT)
        except OSError as error:
            log.debug("rank %d cannot be woken: %s", rank, error)

    def _away(self) -> bool:
        """Whether the others may have given this rank up without its main thread learning of it."""
        return self._connects or (not self._inside and time.monotonic() - self._met >= self._timeout_s)

    def _watch(self) -> None:
        pause, silent = min(max(self._timeout_s / 10, 0.2), 2.0), 0
        while not self._left.wait(pause):
            if not self._away():
                continue
            said = within(STORE_S, self._said, "")
            silent = silent + 1 if said == "" else 0
            lost = said or silent >= SILENCES  # without its store a launch is over as well
            if not lost or self._left.is_set() or not self._away():
                continue
            if os.environ.get(TRACEBACK):
                faulthandler.dump_traceback(all_threads=True)
            os._exit(1)


_current: RollCall | None = None


def open_roll_call(store: Store, rank: int, world: int, timeout: timedelta) -> Store:
    """Meets the other ranks in a store that earlier attempts of the launch may have used, and begins the roll calls.

    A launch has one store for all its attempts, and machines may count their attempts differently. So rank 0 draws a
    name for this attempt, and tells it to each rank that asks. Who does not ask in time is named.

    Args:
        store: The launch's store.
        rank: This rank.
        world: Number of ranks.
        timeout: How long the group's collectives wait; at the start ten minutes at least.

    Returns:
        A part of the store that only this group uses.

    Raises:
        LostRankError: If a rank did not come.
    """
    global _current
    close_roll_call()
    store, patience = PrefixStore("hiso_pl/start", store), max(timeout.total_seconds(), START_S)
    until = time.monotonic() + patience
    own = secrets.token_hex(8)
    store.set(f"asks/{rank}", own)
    name = own if rank == 0 else None
    waiting = set(range(1, world)) if rank == 0 else {0}
    while waiting and time.monotonic() < until:
        if rank == 0:
            for other in list(waiting):
                if store.check([f"asks/{other}"]):  # perhaps what it asked in an earlier attempt, and it asks again
                    store.set(f"answer/{store.get(f'asks/{other}').decode()}", own)
                if store.check([f"{own}/here/{other}"]):
                    waiting.discard(other)
        elif store.check([f"answer/{own}"]):
            name, waiting = store.get(f"answer/{own}").decode(), set()
            store.set(f"{name}/here/{rank}", "1")
        if waiting:
            time.sleep(POLL_S)
    if waiting:
        ranks = f"rank{'s' if len(waiting) > 1 else ''} {', '.join(map(str, sorted(waiting)))}"
        text = f"{ranks} did not come to the start within {patience:g} s"
        if rank == 0:  # those who have come will ask
            store.set(f"group/{own}/verdict", text)
        raise LostRankError(text)
    group = PrefixStore(f"group/{name}", store)
    _current = RollCall(group, rank, world, timeout.total_seconds())
    return group


def current() -> RollCall | None:
    """The roll call of this process's group, if it has one."""
    return _current


def close_roll_call() -> None:
    """Ends the roll calls, with the group."""
    global _current
    if _current is not None:
        _current.leave()
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


def within(seconds: float, function: Callable[[], T], otherwise: U) -> T | U:
    """Calls a function that may wait for a machine that is no more.

    Args:
        seconds: How long to wait for it.
        function: What to call; it goes on in a thread of its own if it does not end in time.
        otherwise: What counts as its result if it does not end in time or raises.
    """
    result: list[T | U] = [otherwise]

    def call() -> None:
        try:
            result[0] = function()
        except (RuntimeError, OSError, ValueError) as error:  # torch's store errors are RuntimeErrors
            log.debug("no answer: %s", error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    return result[0]


def _of_the_network(error: BaseException) -> bool:
    """Whether an error tells of other ranks or the network, and not yet of which."""
    if isinstance(error, LostRankError) or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or bool(re.search(BACKENDS, str(error)))


def _own_place() -> dict[str, Any]:
    """Where this process is: its machine, told apart by host name and name space of processes, and its id there."""
    pid = os.getpid()
    now = _process(pid)
    machine = "" if now is None else f"{socket.gethostname()} {os.stat('/proc/self/ns/pid').st_ino}"
    return {"host": socket.gethostname(), "machine": machine, "pid": pid, "started": "" if now is None else now[1]}


def _process(pid: int) -> tuple[str, str] | None:
    """State and start time of a process of this machine; None if there is none, or no way to tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], fields[19]
