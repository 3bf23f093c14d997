"""One writer of a folder: a lock that dies with the process that holds it.

It is the kernel's (``flock``) upon a file ``.lock`` in the folder, so nothing is left to be cleared away after a kill,
and a file that is left means nothing. On NFS Linux passes it on to the server (from 2.6.12 on), so that processes of
other machines are kept out as well; there the lock of a machine that is gone lasts until the server gives it up, for
some minutes at most. A file system that knows no locks is said so once, and then a ledger's writer alone notices that
another process has written.

Processes that are forked let go of their copy, those that are started otherwise get none. A process that holds a folder
may ask for it again: a run that is repaired, or tested at its end, goes on in the same one.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shlex
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hiso_pl.ranks import environment, place

log = logging.getLogger(__name__)

LOCK = ".lock"
PATIENCE_S = 60.0
"""How long an earlier attempt of a launch is waited for: torchrun kills one 30 s after it was asked to end."""
TOLD_BYTES = 4096
"""What is read of what a holder says of itself."""


class InUseError(ValueError):
    """A folder that another process writes into."""


@dataclass
class _Held:
    """A lock of this process: the open file, if the file system knows locks, and the folders made for it."""

    fd: int | None
    made: list[Path]


_held: dict[Path, _Held] = {}


def hold(folder: Path | str) -> bool:
    """Takes a folder for this process, until :func:`release` or its end; the folder is made.

    What the folder holds is to be looked at afterwards only. An earlier attempt of the same launch by torchrun, which
    is about to be ended, is waited for.

    Returns:
        Whether it is taken now, and was not this process's before.

    Raises:
        InUseError: If another process has it; it names the process, and nothing is changed.
        OSError: If the folder cannot be made or written.
    """
    folder = Path(os.path.abspath(folder))
    if folder in _held:
        return False
    until, waiting = time.monotonic() + PATIENCE_S, False
    while True:
        try:
            _held[folder] = _taken(folder)
            return True
        except InUseError as error:
            told = error.__cause__
            again = isinstance(told, _Told) and told.launch is not None and told.launch == _launch()
            if not again or time.monotonic() > until:
                raise
            if not waiting:
                log.warning("An earlier attempt of this launch is waited for: %s", error)
            waiting = True
            time.sleep(0.5)


def release(folder: Path | str) -> None:
    """Lets go of a folder; of one that nothing was written into, nothing is left."""
    folder = Path(os.path.abspath(folder))
    held = _held.pop(folder, None)
    if held is None:
        return
    path = folder / LOCK
    if held.fd is not None:
        if _is_at(path, held.fd):  # while it is locked, or another process's would be removed
            with suppress(OSError):
                path.unlink()
        os.close(held.fd)
    with suppress(OSError):  # as something is in it
        for made in held.made:
            made.rmdir()


@contextmanager
def held(folder: Path | str) -> Iterator[int | None]:
    """Keeps other processes out of a folder during the block; gives the open file, for processes that are to hold on.

    Raises:
        InUseError: If another process has it.
    """
    new = hold(folder)
    try:
        yield _held[Path(os.path.abspath(folder))].fd
    finally:
        if new:
            release(folder)


@contextmanager
def none_left() -> Iterator[None]:
    """Lets go, at the end of the block, of what was taken in it."""
    before = set(_held)
    try:
        yield
    finally:
        for folder in set(_held) - before:
            release(folder)


class _Told(Exception):
    """What a holder says of itself: a file's words, so each is checked before it is said."""

    def __init__(self, text: bytes) -> None:
        tree: Any = None
        with suppress(ValueError, RecursionError):
            tree = json.loads(text)
        tree = tree if isinstance(tree, dict) else {}
        words = {key: value for key, value in tree.items() if isinstance(value, str) and value.isprintable()}
        self.pid = tree.get("pid") if type(tree.get("pid")) is int else None
        self.launch = words.get("launch")
        self.host, self.since, self.command = (words.get(key, "?")[:200] for key in ("host", "since", "command"))
        known = self.pid is not None and {"machine", "started"} <= words.keys()
        self.ended = known and place.state({**words, "pid": self.pid}) == "ended"


def _taken(folder: Path) -> _Held:
    """One attempt to take a folder."""
    path, last = folder / LOCK, ""
    for _ in range(100):  # until none is removed in between by one who lets go
        made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # no link is followed, and a FIFO is not waited for
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        except FileNotFoundError as error:
            last = f" ({error.strerror})"
            continue
        except OSError as error:
            there = os.path.lexists(path)
            what = "remove it" if there else "give a folder that you may write into"
            raise OSError(
                f"{path if there else folder} cannot be made or written into ({error.strerror}): {what}"
            ) from error
        try:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
                raise ValueError(f"{path} must be a file of this folder alone, as it is written over: remove it")
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)  # one who has just taken it says so
            told = _Told(os.pread(fd, TOLD_BYTES, 0))
            os.close(fd)
            raise InUseError(_refusal(folder, told)) from told
        except OSError as error:
            log.warning("%s cannot be locked (%s): see to it that no second run is started there.", folder, error)
            with suppress(OSError):
                path.unlink()
            os.close(fd)
            return _Held(None, made)
        except ValueError:
            os.close(fd)
            raise
        if _is_at(path, fd):
            with suppress(OSError):  # a full disk keeps nobody from having the lock
                os.ftruncate(fd, 0)
                os.pwrite(fd, _words(), 0)
            return _Held(fd, made)
        os.close(fd)
    if not folder.exists():
        raise OSError(f"{folder} cannot be made{last}: give a folder that you may write into")
    raise OSError(f"{path} does not stay: something removes it")


def _refusal(folder: Path, told: _Told) -> str:
    if told.pid is None:
        return f"{folder} is in use by another process, which holds {folder / LOCK}: end it, or give another folder"
    who = f"{folder} is in use by process {told.pid} on {told.host} since {told.since} ({told.command})"
    if told.ended:
        return f"{who}; it has ended, and one that outlived it goes on: `fuser {folder / LOCK}` names it; end it first"
    return f"{who}: wait for it, end it by `kill {told.pid}` there, or give another folder"


def _words() -> bytes:
    """What this process says of itself."""
    name = Path(sys.argv[0]).name.replace("__main__.py", "hiso-pl")
    command = shlex.join([name, *sys.argv[1:]])
    said = {
        **place.own_place(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command if len(command) <= 120 else command[:117] + "...",
        "launch": _launch(),
    }
    return json.dumps(said).encode("ascii")[:TOLD_BYTES]


def _launch() -> str | None:
    """What all attempts of a launch by torchrun have in common."""
    names = (environment.BY_TORCHRUN, "MASTER_ADDR", "MASTER_PORT")
    return " ".join(os.environ.get(name, "") for name in names) if environment.under_torchrun() else None


def _is_at(path: Path, fd: int) -> bool:
    """Whether an open file is the one that a path names."""
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False


def _forked() -> None:
    """In a child: closing its copies lets go of nothing as long as the parent has its own."""
    for held in _held.values():
        if held.fd is not None:
            os.close(held.fd)
    _held.clear()


os.register_at_fork(after_in_child=_forked)
