"""How long ranks wait for one another where no collective does it for them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
U = TypeVar("U")

START_S = 600.0  # at least, for all ranks to start: to import, to read the model, perhaps to download it
AGENT_S = 30.0  # for the store of torchrun's agent to answer, which is there before any rank
SAY_S = 10.0  # before it is said what is waited for at the start
STALE_S = 10.0  # for a rank that is started again to take back that it has ended
CONNECT_S = 5.0  # for a machine to answer at all
ANSWER_S = 12.0  # for a store to answer; looking up the caller's name may hold it up for five seconds
LATE_S = 3.0  # for others to note that they had come, after a time-out: leaving the group makes them fail at once
LOST_S = 10.0  # the same after a lost connection: others may be in a forward and learn of it later
POLL_S = 0.05
STORE_S = 10.0  # for the store to answer at all


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
