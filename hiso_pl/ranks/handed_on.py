"""Signals that come to a launcher: the first is handed on to its ranks, another kills them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from hiso_pl.ranks import early_signals, reasons


@contextmanager
def handed_on(ask: Callable[[signal.Signals], bool], kill: Callable[[], None]) -> Iterator[None]:
    """Takes SIGINT, SIGTERM, SIGHUP and SIGQUIT during the block; a SIGHUP that nohup has ignored stays so.

    Args:
        ask: Tells the ranks to end after their round; gives whether there are any.
        kill: Kills them, as SIGQUIT does at once.
    """
    first: list[float] = []

    def wish(number: int, frame: object) -> None:
        if first and time.monotonic() - first[0] < early_signals.AGAIN_S and number != signal.SIGQUIT:
            return
        name = signal.Signals(number).name
        if first or number == signal.SIGQUIT:
            kill()
            say(f"hiso-pl: error: the ranks were killed, as {name} came{' again' if first else ''}")
            os._exit(128 + number)
        if not ask(signal.Signals(number)):
            kill()
            say(f"hiso-pl: error: {name} before the ranks were started")
            os._exit(128 + number)
        first.append(time.monotonic())
        say(f"hiso-pl: {name}: the ranks end after their round; once more kills them")

    kept: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (*reasons.WISHES, signal.SIGQUIT):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                kept[number] = signal.signal(number, wish)
    try:
        yield
    finally:
        for taken, handler in kept.items():
            signal.signal(taken, handler)


def say(text: str) -> None:
    """Says a line at once, also within a handler of signals, and where nobody listens any more."""
    with suppress(OSError):
        os.write(2, f"{text}\n".encode())
