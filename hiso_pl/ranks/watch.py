"""The thread of a rank that ends its process once the others have given it up.

A rank that hangs can note nothing, and torchrun ends it late: it sends SIGTERM, which a run defers to its round's end,
and SIGKILL after TORCH_ELASTIC_SHUTDOWN_TIMEOUT seconds. So a thread looks, once the rank has been away from the others
for longer than the time-out, whether it has been given up. It needs Python's lock, which nearly all of torch lets go
while it computes or waits for a device.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hiso_pl.ranks import patience, reasons

log = logging.getLogger(__name__)

SILENCES = 3


class Watch:
    """Knows when this rank has last been among the others.

    Attributes:
        stacks: File to write where each thread is when the process is ended; none where there is no folder for it.

    Args:
        timeout_s: Seconds that the group's collectives wait.
        verdict: Reads what the others have found out; None as long as they have found nothing.
    """

    def __init__(self, timeout_s: float, verdict: Callable[[], str | None]) -> None:
        self.stacks: Path | None = None
        self._timeout_s, self._verdict = timeout_s, verdict
        self._met = time.monotonic()  # when this rank last left the others
        self._inside = 0
        self._connects = False
        self._ended = threading.Event()

    def end(self) -> None:
        """Ends the thread."""
        self._ended.set()

    @contextmanager
    def among_others(self) -> Iterator[None]:
        """Wraps a collective, which learns by itself of what becomes of it."""
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._met = time.monotonic()

    @contextmanager
    def connecting(self) -> Iterator[None]:
        """Begins to look, and while the ranks connect does so at once: gloo waits several times as long as told to."""
        self._connects = True
        threading.Thread(target=self._look, name="hiso_pl-watch", daemon=True).start()
        try:
            yield
        finally:
            self._connects = False
            self._met = time.monotonic()

    def _away(self) -> bool:
        """Whether the others may have given this rank up without its main thread learning of it."""
        return self._connects or (not self._inside and time.monotonic() - self._met >= self._timeout_s)

    def _look(self) -> None:
        pause, silent = min(max(self._timeout_s / 10, 0.2), 2.0), 0
        while not self._ended.wait(pause):
            if not self._away():
                continue
            said = patience.within(patience.STORE_S, self._verdict, "")
            silent = silent + 1 if said == "" else 0
            lost = said or silent >= SILENCES  # without its store a launch is over as well
            if not lost or self._ended.is_set() or not self._away():
                continue
            self._write_stacks()
            reasons.leave(said or "the launch's store is gone", 1, cause=False, first=False, go_on="")
            os._exit(1)

    def _write_stacks(self) -> None:
        if self.stacks is None or not self.stacks.parent.is_dir():
            return
        try:
            with self.stacks.open("w") as file:
                file.write("Given up by the other ranks; this is where its threads were.\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as error:
            log.debug("no stacks are kept: %s", error)
