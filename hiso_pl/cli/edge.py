"""The program's edge: of every error one line and a status that is not 0, and its traceback where that helps."""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from hiso_pl.cli.mistakes import Answered, ConfigurationError, as_said
from hiso_pl.errors import RunError, one_line
from hiso_pl.ranks import environment, reasons
from hiso_pl.run import going_on
from hiso_pl.run.folder import traceback_path

log = logging.getLogger(__name__)

EXPLAINED = (ValueError, OSError, RunError, MemoryError)
"""Errors whose message says what is wrong; of others the class is told as well, and where they came from."""
EXPLAINED_BY_OTHERS = {
    "torch": "OutOfMemoryError",
    "lightning.fabric.utilities.exceptions": "MisconfigurationException",
}
"""Those of packages, looked up once an error is there: a command that has not imported them raises none."""
PEER_LOST = r"(?i)gloo|connection (closed|reset|refused)|broken pipe|timed out waiting|nccl"
INTERRUPTED = 130

_folder: Path | None = None
_shown = False


def begins(folder: Path, shown: bool) -> None:
    """Says which folder the run under way has, and whether its options ask for tracebacks."""
    global _folder, _shown
    _folder, _shown = folder, _shown or shown


def status_of(work: Callable[[], object], args: Sequence[str]) -> int:
    """Does the work of a command, and tells of the error that ends it; the command line may ask for tracebacks.

    Returns:
        The exit status: what the work gives if that is a number, 0 if it is done, 2 for a command line that cannot be,
        130 after an interrupt, 1 otherwise.
    """
    global _folder, _shown
    going_on.begun(None)
    _folder, _shown = None, re.search(r"--traceback[=\n](true|yes)$", "\n".join(args), re.M | re.I) is not None
    hook, threading.excepthook = threading.excepthook, lambda failure: _thread_failed(failure, args)
    status: object = 0
    try:
        with suppress(Answered):
            status = work()
        sys.stdout.flush()  # or a reader that has gone would be noticed when it is too late to say so
        _take_leave(args)
    except BaseException as error:
        return _told(error, args)
    finally:
        threading.excepthook = hook
        if "torch" in sys.modules:
            from hiso_pl.ranks import process

            process.close()
    return status if type(status) is int else 0


def _take_leave(args: Sequence[str]) -> None:
    """Leaves word for others of this launch that may wait for this rank; without others nothing is imported for it."""
    if environment.under_torchrun() and environment.world_size() > 1:
        from hiso_pl.ranks import launch_store, roll_call

        if roll_call.current() is None:
            launch_store.farewell(f"rank {environment.rank()} has ended: hiso-pl {' '.join(args[:1])} was done")


def _say_once(message: str) -> bool:
    """Whether this rank is the one that says a line that all might say."""
    if not environment.under_torchrun() or environment.world_size() == 1:
        return True
    from hiso_pl.ranks import launch_store

    return launch_store.say_once(message)


def _explained(error: BaseException) -> bool:
    """Whether an error's message says what is wrong."""
    return isinstance(error, EXPLAINED) or any(_is(error, *kind) for kind in EXPLAINED_BY_OTHERS.items())


def _is(error: BaseException, module: str, name: str) -> bool:
    """Whether an error is of a class whose module is imported only where it can come from."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(error, kind)


def _told(error: BaseException, args: Sequence[str]) -> int:
    """Writes the line of an error, once a launch, and returns the exit status."""
    if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
        error = error.__context__  # Lightning's way to end
    message, hint = _words(error), ""
    if not (_explained(error) or isinstance(error, KeyboardInterrupt)) and message != LOST:
        path = _keep(error, args)
        hint = " (--traceback true shows where)" if path is None else f" (its traceback is in {path})"
    if _shown:
        traceback.print_exception(error)
    mistaken, interrupted = isinstance(error, ConfigurationError), isinstance(error, KeyboardInterrupt)
    status = 2 if mistaken else INTERRUPTED if interrupted else 1
    said, go_on, first = message + ("" if _shown else hint), going_on.after_failure(), _say_once(message)
    cause = not _is(error, "hiso_pl.ranks.roll_call", "LostRankError") and message != LOST
    if not reasons.leave(said, status, cause, first, go_on) and first:
        where = f" (rank {environment.rank()})" if environment.world_size() > 1 else ""
        with suppress(OSError):  # as of a terminal that has been closed
            sys.stderr.write(f"hiso-pl: error{where}: {said}\n" + (f"hiso-pl: go on with: {go_on}\n" if go_on else ""))
    if isinstance(error, BrokenPipeError):
        with suppress(OSError, ValueError):  # what is left in its buffer would be tried once more, and told of
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


LOST = "lost contact with another rank, which has ended or hangs: see its own lines"


def _words(error: BaseException) -> str:
    """What is said of an error."""
    message = as_said(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, RuntimeError) and not isinstance(error, RunError) and re.search(PEER_LOST, message):
        log.debug("%s", message)  # a RunError has found out more, and quotes the network's own words
        return LOST
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
        message = f"something ended the program by sys.exit({'' if error.code is None else error.code})"
    if isinstance(error, OSError) and message.startswith("[Errno") and error.filename is not None:
        return one_line(f"{error.filename}: {error.strerror}")  # without the number of it
    name = type(error).__name__
    return message if _explained(error) or message == name else f"{name}: {message}"


def _keep(error: BaseException, args: Sequence[str]) -> Path | None:
    """Writes the traceback of an error into the run's folder, if it has one by now."""
    if _folder is None or not _folder.is_dir():
        return None
    path = traceback_path(_folder)
    head = f"{datetime.now().astimezone().isoformat(timespec='seconds')}  hiso-pl {shlex.join(args)}\n"
    try:
        path.write_text(head + "".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError as refused:
        log.debug("no traceback is kept: %s", refused)
        return None
    return path


def _thread_failed(failure: threading.ExceptHookArgs, args: Sequence[str]) -> None:
    """Tells of a thread's error, except of TensorBoard's writer, which raises it again where it is next called."""
    error = failure.exc_value
    if isinstance(error, OSError):
        if error.filename is None and error.errno is not None:
            error.filename = "events.out.tfevents"
    elif error is not None and not isinstance(error, SystemExit):
        path = _keep(error, args)
        log.error("A thread failed: %s%s", _words(error), "" if path is None else f" (its traceback is in {path})")
