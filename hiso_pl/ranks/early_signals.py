"""What SIGINT, SIGTERM and SIGHUP do before a run has a way of its own to end: the process ends at once, with a line.

Nothing is there to be saved by then. Python's own way is an exception wherever the program happens to be: some imports
swallow it, others tell of it in a hundred lines, and a second one comes in the middle of the first.

Nothing that takes time is imported for it, as it is the first thing that the program does.
"""

from __future__ import annotations

import os
import signal

from hiso_pl.ranks.environment import BY_LAUNCH

TYPE_CHECKING = (
    False  # as typing has it, whose import takes as long as all else that comes before the signals are taken
)
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

WORDS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "terminated, as its terminal has gone",
}

AGAIN_S = 1.0
"""After how long another signal is another wish: `timeout` sends its own twice at once."""


def end_at_once() -> None:
    """Takes the signals, but for one that whoever started the process has had ignored."""
    for number in WORDS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def over() -> None:
    """Gives the signals back to Python, so that what is under way can leave its files and processes in order."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, _interrupt)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    rank, of_several = (
        os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")),
        os.environ.get("WORLD_SIZE", "1") != "1",
    )
    # Ctrl-C comes to all ranks, and one speaks; a launcher that speaks for its ranks, and torchrun, which sends SIGTERM
    # for a reason of its own, tell it themselves
    if not of_several or (number == signal.SIGINT and rank == "0" and BY_LAUNCH not in os.environ):
        os.write(2, f"hiso-pl: error{' (rank 0)' if of_several else ''}: {WORDS[signal.Signals(number)]}\n".encode())
    os._exit(128 + number)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # an impatient second one would be told in the middle of the first
    raise KeyboardInterrupt
