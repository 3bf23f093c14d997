"""What a rank that fails leaves to be said: its launcher says it last and once, when all ranks have ended.

``hiso-pl launch`` gives its ranks a folder for it. Without one a rank says what it has to say itself.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from hiso_pl.ranks import environment

log = logging.getLogger(__name__)

FOLDER = environment.BY_LAUNCH
LAUNCHER = "launcher"
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
