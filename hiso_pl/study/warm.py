"""The process that has imported what a run needs, and stays: each run of a study is a fork of it.

``python -m hiso_pl.study.warm DESCRIPTOR`` is started by :class:`hiso_pl.study.processes.Forking`, which talks to it
over the socket of that number, a line of JSON for each wish and each answer:

    {"id": 1, "arguments": [...], "log": "FILE", "environment": {...}}     begin a run    -> {"id": 1, "pid": 4711}
    {"id": 1, "signal": 2}                                                 send it that
                                                                           it has ended   -> {"id": 1, "status": 0}

It has one thread, computes nothing and never touches a GPU, so that a fork of it is as good as a process of its own. It
ends when the other end of the socket is closed; its runs notice that after their round, by their parent's end.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import socket
import sys
import sysconfig
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from hiso_pl.ranks import early_signals, environment

READY_S = 0.05
"""How often is looked for runs that have ended."""
FIT = ("hiso_pl.cli.program", "hiso_pl.cli.running")


@dataclass
class _Child:
    number: int
    imported: int
    """An open file without a name, into which it writes what it has imported."""


def main() -> None:
    """Serves the study; comes back in each fork, and goes on there as the program itself."""
    early_signals.end_at_once()
    job = _Warm(socket.socket(fileno=int(sys.argv[1]))).serve()
    if job is not None:
        _become(job)
        from hiso_pl.__main__ import main as program

        program()


class _Warm:
    """The process itself.

    Args:
        channel: The socket to the study.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel, self._heard = channel, b""
        self._children: dict[int, _Child] = {}

    def serve(self) -> Mapping[str, Any] | None:
        """Does what the study wishes until it has gone; in a fork, what that is to become."""
        gc.disable()  # imports leave next to no garbage
        for name in FIT:
            import_module(name)
        gc.collect()
        gc.freeze()  # collections in the forks pass over all this, and copy no pages for it
        gc.enable()
        while True:
            readable, *_ = select.select([self._channel], [], [], READY_S if self._children else None)
            if readable:
                said = self._channel.recv(1 << 16)
                if not said:
                    return None
                *lines, self._heard = (self._heard + said).split(b"\n")
                for line in lines:
                    wish = json.loads(line)
                    if "signal" in wish:
                        self._send_signal(wish["id"], wish["signal"])
                    elif self._fork(wish):
                        return wish  # type: ignore[no-any-return]
            self._reap()

    def _fork(self, wish: Mapping[str, Any]) -> bool:
        """Begins a run; whether this is the run."""
        imported, known = os.memfd_create("imported"), len(sys.modules)
        os.environ[environment.BY_STUDY] = str(os.getpid())
        pid = os.fork()
        if pid == 0:
            self._channel.close()
            for child in self._children.values():
                os.close(child.imported)
            atexit.register(_tell_imports, imported, known)
            return True
        self._children[pid] = _Child(wish["id"], imported)
        self._say(id=wish["id"], pid=pid)
        return False

    def _send_signal(self, number: int, which: int) -> None:
        for pid, child in self._children.items():  # not reaped, so the process id is still its own
            if child.number == number:
                os.kill(pid, which)

    def _reap(self) -> None:
        for pid, child in list(self._children.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                del self._children[pid]
                self._say(id=child.number, status=os.waitstatus_to_exitcode(status))
                with open(child.imported, "rb") as file:
                    file.seek(0)
                    _import_too(file.read().decode().split("\n"))

    def _say(self, **answer: int) -> None:
        with suppress(BrokenPipeError):  # the study has gone, as is noticed next
            self._channel.sendall(json.dumps(answer).encode() + b"\n")


def _become(job: Mapping[str, Any]) -> None:
    """Makes a fork what a process is that was started for the run alone."""
    os.setsid()
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, job["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT),
    ):
        opened = os.open(path, flags, 0o666)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.dup2(1, 2)
    os.environ.update(job["environment"])
    program = sys.modules["hiso_pl"].__path__[0] + "/__main__.py"
    sys.argv = [program, *job["arguments"]]
    if _has_used_a_gpu(sys.modules.get("torch")):
        os.execv(sys.executable, [sys.executable, "-m", "hiso_pl", *job["arguments"]])


def _has_used_a_gpu(torch: ModuleType | None) -> bool:
    """Whether something has made CUDA unusable in forks, such as an import that looks for GPUs."""
    return torch is not None and bool(torch.cuda._is_in_bad_fork())


def _tell_imports(file: int, known: int) -> None:
    """Leaves word of what a run has imported beyond what was there, in that order."""
    with suppress(OSError):
        os.write(file, "\n".join(list(sys.modules)[known:]).encode())


def _import_too(names: list[str]) -> None:
    """Imports what a run has imported, so that the next ones need not; nothing of the user's own, which may change."""
    roots = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
    ours = str(Path(__file__).parents[1])
    for name in names:
        parent = sys.modules.get(name.rpartition(".")[0])
        if name in sys.modules or ("." in name and parent is None):
            continue
        with suppress(Exception):
            spec = find_spec(name)
            if spec is not None and (spec.origin or "").startswith((*roots, ours)):
                import_module(name)
    gc.freeze()


if __name__ == "__main__":
    main()
