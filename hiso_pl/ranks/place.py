"""Where a rank's process is, and what has become of it, as far as another process of its machine can tell."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

Place = Mapping[str, Any]


def own_place() -> dict[str, Any]:
    """Where this process is: its machine, told apart by host name and name space of processes, and its id there."""
    pid = os.getpid()
    now = status(pid)
    machine = "" if now is None else f"{socket.gethostname()} {os.stat('/proc/self/ns/pid').st_ino}"
    return {"host": socket.gethostname(), "machine": machine, "pid": pid, "started": "" if now is None else now[1]}


def named(place: Place) -> str:
    """A place as it is said; an empty one is that of a rank that has told none."""
    return f"process {place['pid']} on {place['host']}" if place else "never seen"


def state(place: Place) -> str | None:
    """Whether a process has ended, is stopped or is alive; None where it is not on this machine."""
    if not place or not place["machine"] or place["machine"] != own_place()["machine"]:
        return None
    now = status(int(place["pid"]))
    if now is None or now[1] != place["started"] or now[0] in "ZX":
        return "ended"
    return "stopped" if now[0] in "Tt" else "alive"


def wake(place: Place) -> None:
    """Lets a stopped process go on."""
    try:
        os.kill(int(place["pid"]), signal.SIGCONT)
    except OSError as error:
        log.debug("%s cannot be woken: %s", named(place), error)


def status(pid: int) -> tuple[str, str] | None:
    """The system's letter for a process of this machine, and its start time; None if none can be found."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], fields[19]
