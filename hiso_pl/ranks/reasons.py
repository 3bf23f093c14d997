"""What a rank that fails leaves to be said: its launcher says it last and once, when all ranks have ended.

``hiso-pl launch`` gives its ranks a folder for it. Without one a rank says what it has to say itself.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hiso_pl.ranks import environment

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

log = logging.getLogger(__name__)

FOLDER = environment.BY_LAUNCH
LAUNCHER = "launcher"
WISHES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "terminated"}
"""The signals that end a run in order, and what is said of one that has not begun."""
ATTEMPT = "TORCHELASTIC_RESTART_COUNT"


@dataclass(frozen=True)
class Reason:
    """Why a rank has ended.

    Attributes:
        rank: The rank.
        message: The reason, in one line.
        status: Its exit status.
        cause: Whether it failed by itself, and not for want of another rank.
        first: Whether no rank of the launch has given this reason before.
        go_on: The command that goes on with the run; empty if nothing is there to go on from.
        time: When it was said.
    """

    rank: int
    message: str
    status: int
    cause: bool
    first: bool
    go_on: str = ""
    time: float = 0.0


def leave(message: str, status: int, cause: bool, first: bool, go_on: str) -> bool:
    """Leaves this rank's reason to its launcher.

    Returns:
        Whether there is one that will say them.
    """
    folder = os.environ.get(FOLDER)
    if folder is None or not _is_heard(Path(folder)):
        return False
    words = Reason(environment.rank(), message, status, cause, first, go_on, time.time())
    try:
        path = Path(folder) / f"{os.environ.get(ATTEMPT, '0')}.{words.rank}"
        path.write_text(json.dumps(asdict(words)), encoding="utf-8")
    except OSError as error:
        log.debug("no reason is left: %s", error)
        return False
    return True


def listen(folder: Path) -> None:
    """Notes that this process, the parent of the ranks, says what is left in a folder."""
    (folder / LAUNCHER).write_text(str(os.getpid()), encoding="ascii")


def _is_heard(folder: Path) -> bool:
    """Whether the launcher is still there; one that was killed leaves its ranks, and its folder, behind."""
    try:
        return (folder / LAUNCHER).read_text(encoding="ascii") == str(os.getppid())
    except OSError:
        return False


def left(folder: Path, attempt: int) -> list[Reason]:
    """What the ranks of an attempt have left, the earliest first."""
    found = []
    for path in folder.glob(f"{attempt}.*"):
        try:
            found.append(Reason(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError) as error:  # as of a rank that was killed while it wrote
            log.debug("%s: %s", path, error)
    return sorted(found, key=lambda words: words.time)


@dataclass
class Said:
    """What is said when all has ended.

    Attributes:
        status: The launch's exit status.
        line: The last line.
        go_on: The command that goes on; empty if there is nothing to go on from.
    """

    status: int
    line: str = ""
    go_on: str = ""


def verdict(failures: Mapping[int, ProcessFailure], given: Sequence[Reason], asked: int | None) -> Said:
    """What is said of failures: a rank's own reason, one that ended without a word, or who missed another."""
    go_on = next((reason.go_on for reason in given if reason.go_on), "")
    own = [reason for reason in given if reason.cause]
    speaking, by_agent = {reason.rank for reason in given}, (-signal.SIGTERM, 128 + signal.SIGTERM)
    silent = {r: f for r, f in failures.items() if r not in speaking and f.exitcode not in by_agent and asked is None}
    if own or (given and not silent):
        reason = next((reason for reason in own or given if reason.first), (own or given)[0])
        kind = f"error (rank {reason.rank})" if reason.first else "ended, as ranks of another machine have"
        return Said(reason.status, f"hiso-pl: {kind}: {reason.message}", go_on)
    if asked is not None:
        return Said(128 + asked, f"hiso-pl: error: {WISHES[signal.Signals(asked)]} before a round was done", go_on)
    for rank, failure in (silent or failures).items():
        end, status = f"ended with status {failure.exitcode} and without a word", failure.exitcode
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            why = ", as the system does where memory runs out" if name == "SIGKILL" else ""
            end, status = f"was ended by {name}{why}", 128 - failure.exitcode
        return Said(status, f"hiso-pl: error (rank {rank}): its process {failure.pid} {end}", go_on)
    return Said(1, "hiso-pl: ended, as ranks of another machine have", go_on)
