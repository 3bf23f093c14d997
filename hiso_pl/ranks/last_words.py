"""SIGTERM put off until a failure has been told."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Delay:
    """SIGTERM put off from a run's failure until its program, if one has asked for that, has said why it failed.

    Once a rank has ended torchrun sends SIGTERM to the others, whatever they were about to say of it.
    """

    def __init__(self) -> None:
        self.asked = False
        self._came = False

    def note(self, signum: int, frame: object) -> None:
        """Handles the signal."""
        self._came = True

    def deliver(self, handler: Any) -> None:
        """Gives the signal back, and to the process if it has come."""
        if signal.getsignal(signal.SIGTERM) == self.note:
            signal.signal(signal.SIGTERM, handler)
        if self._came:
            self._came = False
            os.kill(os.getpid(), signal.SIGTERM)


delay = _Delay()


@contextmanager
def last_words() -> Iterator[None]:
    """Lets SIGTERM wait for the end of the block once a run in it has failed, so that its reason can be said."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no handler can be set here
        return
    handler, delay.asked = signal.getsignal(signal.SIGTERM), True
    try:
        yield
    finally:
        delay.asked = False
        delay.deliver(handler)
