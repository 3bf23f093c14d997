"""How the runs of a study become processes: forks of one that has imported what they need, or each one of its own.

Either has a session of its own, so that a terminal's Ctrl-C reaches it through the study alone, writes what it says to
a log, and keeps the open file of the study's lock, so that a run that outlives the study keeps others out.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from hiso_pl.ranks import environment, place

THREADS = {"OMP_NUM_THREADS": "1"}
"""Said before torch is imported, unless the user has."""
LOST = -256
"""The status of a run whose end nobody has seen, as the process that it is a fork of was killed."""


class Handle(Protocol):
    """A run under way."""

    def poll(self) -> int | None:
        """Its exit status, as of ``subprocess``; none while it goes on."""

    def interrupt(self) -> None:
        """Has it end after its round."""

    def wait(self) -> int:
        """Waits for its end, and gives the status."""


class Starter(Protocol):
    """What makes processes of runs."""

    def start(self, arguments: Sequence[str], log: Path, until: int | None) -> Handle:
        """Begins ``hiso-pl`` with these arguments, command first; it stops after round ``until`` if one is given."""

    def close(self) -> None:
        """Lets go of what was held for runs to come."""


def starter(nproc: int, kept: int | None) -> Starter:
    """Forks where they are safe and one process is a run; elsewhere processes of their own.

    Args:
        nproc: Ranks of a run, which are launched if they are more than one.
        kept: The open file of the study's lock.
    """
    if nproc == 1 and sys.platform == "linux":  # macOS's own libraries do not outlive a fork
        return Forking(kept)
    return Alone(kept, ("launch", "--nproc", str(nproc)) if nproc > 1 else ())


class Alone:
    """Each run is a process of its own, or a launch of several.

    Args:
        kept: The open file of the study's lock.
        before: What comes before a run's command.
    """

    def __init__(self, kept: int | None, before: Sequence[str] = ()) -> None:
        self._kept, self._before = kept, before

    def start(self, arguments: Sequence[str], log: Path, until: int | None) -> Handle:
        """Begins a run."""
        with log.open("ab") as said:
            return _Process(
                [sys.executable, "-m", "hiso_pl", *self._before, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env={**THREADS, **os.environ, environment.BY_STUDY: str(os.getpid()), **_until(until)},
                start_new_session=True,
                pass_fds=[] if self._kept is None else [self._kept],
            )

    def close(self) -> None:
        """Nothing is held."""


class _Process(subprocess.Popen[bytes]):
    def interrupt(self) -> None:
        self.send_signal(signal.SIGINT)


class Forking:
    """Each run is a fork of :mod:`hiso_pl.study.warm`, which is started with the first one, and anew if it is killed.

    Args:
        kept: The open file of the study's lock.
    """

    def __init__(self, kept: int | None) -> None:
        self._kept = kept
        self._warm: _Warm | None = None
        self._begun = 0

    def start(self, arguments: Sequence[str], log: Path, until: int | None) -> Handle:
        """Begins a run; of one whose arguments the process does not live to hear the status is :data:`LOST`."""
        if self._warm is None or self._warm.gone:
            self._warm = _Warm(self._kept)
        self._begun += 1
        fork = _Fork(self._warm, self._begun)
        self._warm.forks[self._begun] = fork
        wish = {"arguments": list(arguments), "log": str(log.absolute()), "environment": _until(until)}
        self._warm.say(id=self._begun, **wish)
        return fork

    def close(self) -> None:
        """Ends the process; its runs have ended, or end after their round."""
        if self._warm is not None:
            self._warm.close()


class _Warm:
    """The study's end of the process that is forked."""

    def __init__(self, kept: int | None) -> None:
        self._channel, theirs = socket.socketpair()
        self._heard = b""
        self.gone = False
        self.forks: dict[int, _Fork] = {}
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hiso_pl.study.warm", str(number)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**THREADS, **os.environ},
                start_new_session=True,
                pass_fds=[number] if kept is None else [number, kept],
            )

    def say(self, **wish: object) -> None:
        with suppress(OSError):  # as it is gone, which is heard next
            self._channel.sendall(json.dumps(wish).encode() + b"\n")

    def hear(self, patience_s: float = 0.0) -> None:
        """Takes what it has said."""
        while not self.gone and select.select([self._channel], [], [], patience_s)[0]:
            said = b""
            with suppress(ConnectionError):
                said = self._channel.recv(1 << 16)
            self.gone, patience_s = not said, 0.0
            *lines, self._heard = (self._heard + said).split(b"\n")
            for line in lines:
                answer = json.loads(line)
                fork = self.forks[answer["id"]]
                fork.pid, fork.status = answer.get("pid", fork.pid), answer.get("status")
                if fork.status is not None:
                    del self.forks[answer["id"]]
        if self.gone:
            self._process.wait()

    def close(self) -> None:
        self._channel.close()
        self._process.wait()


class _Fork:
    def __init__(self, warm: _Warm, number: int) -> None:
        self._warm, self._number = warm, number
        self.pid: int | None = None
        self.status: int | None = None

    def poll(self) -> int | None:
        self._warm.hear()
        if self.status is None and self._warm.gone and self._ended():
            self.status = LOST
        return self.status

    def interrupt(self) -> None:
        self._warm.hear()
        if not self._warm.gone:
            self._warm.say(id=self._number, signal=signal.SIGINT)
        # else it has noticed, and ends after its round

    def wait(self) -> int:
        while (status := self.poll()) is None:
            self._warm.hear(0.1)
            if self._warm.gone:
                select.select([], [], [], 0.1)
        return status

    def _ended(self) -> bool:
        """Whether the process, of which the one that knew has gone, has ended."""
        found = None if self.pid is None else place.status(self.pid)
        return found is None or found[0] in "ZX"


def _until(until: int | None) -> Mapping[str, str]:
    return {} if until is None else {environment.STOP_AFTER: str(until)}
