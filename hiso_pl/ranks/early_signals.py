"""What SIGINT and SIGTERM do before a run has a way of its own to end: the process ends at once, with a line.

Nothing is there to be saved by then. Python's own way is an exception wherever the program happens to be: some imports
swallow it, others tell of it in a hundred lines, and a second one comes in the middle of the first.

Nothing is imported for it, as it is the first thing that the program does.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = (
    False  # as typing has it, whose import takes as long as all else that comes before the signals are taken
)
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, NoReturn

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}

launcher: Any = None
"""Lightning's, where it has this process start the other ranks: they are not to outlive it."""


def end_at_once() -> None:
    """Takes the signals, but for one that whoever started the process has had ignored."""
    for number in WORDS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def over() -> None:
    """Gives the signals back to Python, so that what is under way can leave its files and processes in order."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, _interrupt)
    if signal.getsignal(signal.SIGTERM) is _end:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    for process in getattr(launcher, "procs", ()):
        process.send_signal(signal.SIGTERM)
    rank, of_several = (
        os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")),
        os.environ.get("WORLD_SIZE", "1") != "1",
    )
    # Ctrl-C comes to all ranks, and one speaks; SIGTERM comes from torchrun, which has its reason and tells it
    if not of_several or (number == signal.SIGINT and rank == "0"):
        os.write(2, f"hiso-pl: error{' (rank 0)' if of_several else ''}: {WORDS[signal.Signals(number)]}\n".encode())
    os._exit(128 + number)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # an impatient second one would be told in the middle of the first
    raise KeyboardInterrupt
