"""torchrun, whose ranks are forks of its agent: what a run imports is imported once a launch, as that is what costs.

Usage: forked_ranks.py, and what ``python -m torch.distributed.run`` takes.

All else is torchrun's own: rendezvous, environment, watching, restarts, signals. A rank has a session, an environment
and open files as if it had been started, and what is read at imports is set anew: its number, and the agent's process.
"""

from __future__ import annotations

import gc
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from importlib import import_module
from typing import NoReturn

from hiso_pl import __main__ as program  # first, as it sets what is read when others are imported
from hiso_pl.ranks import environment


class ForkedRank:
    """A rank's process, with what the agent asks of a ``Popen``."""

    def __init__(self, args: tuple[str, ...], env: dict[str, str]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.returncode: int | None = None
        agent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _become(args, env, agent)

    def poll(self) -> int | None:
        if self.returncode is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float) -> int:
        until = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("rank", timeout)
            time.sleep(0.02)
        return status


def _become(args: tuple[str, ...], env: dict[str, str], agent: int) -> NoReturn:
    """Goes on as what a command would start: ``PYTHON -u -m hiso_pl ...`` or ``PYTHON -u SCRIPT ...``."""
    status: object = 1
    try:
        os.setsid()
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(env)
        environment._PARENT = agent
        import_module("lightning_utilities.core.rank_zero").rank_zero_only.rank = int(env["RANK"])
        given = list(args[2:])  # behind the interpreter and -u
        if given[0] == "-m":
            sys.argv = [str(program.__file__), *given[2:]]
            program.main()
        else:
            sys.argv = given
            runpy.run_path(given[0], run_name="__main__")
        status = 0
    except SystemExit as ended:
        status = ended.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


def main() -> None:
    gc.disable()
    for name in ("hiso_pl.cli.program", "hiso_pl.cli.running"):
        import_module(name)
    gc.freeze()
    gc.enable()
    handlers = import_module("torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler")
    assert hasattr(handlers.SubprocessHandler, "_popen")
    handlers.SubprocessHandler._popen = lambda _, args, env: ForkedRank(args, env)
    import_module("torch.distributed.run").main()


if __name__ == "__main__":
    main()
