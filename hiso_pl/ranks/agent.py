"""Starts the ranks of this machine by torch's elastic agent, hands them signals, and says why they ended.

torchrun is the same agent with other manners: on a signal it gives up its ranks, tells of it in dozens of lines and
ends with a status of its own. Here the agent works in a thread beside the one that signals come to: ranks that a signal
ends after their round have ended well, and what a rank leaves to be said is said last.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from hiso_pl.errors import RunError, one_line
from hiso_pl.ranks import environment, reasons
from hiso_pl.ranks.handed_on import handed_on, say

LATER_S = 900.0
"""How long machines wait for one another, as long as torchrun's do."""
PROGRAM = ("-u", "-m", "hiso_pl")
MISTAKE = 2
"""The status of a rank whose command line cannot be: another attempt would find the same."""


@dataclass(frozen=True)
class Launch:
    """What is launched, and where.

    Attributes:
        command: What each rank runs: the arguments of the program.
        ranks: How many on this machine.
        started_by: The command line before them, as it is to be repeated.
        machines: How many take part.
        endpoint: Where they meet, HOST:PORT; this machine alone needs none.
        run_id: Under which name they meet.
        max_restarts: How often ranks are started again when one has failed.
        local_addr: The address by which the others reach this machine; its host name if none is given.
    """

    command: Sequence[str]
    ranks: int
    started_by: str
    machines: int = 1
    endpoint: str = "localhost:0"
    run_id: str = "hiso_pl"
    max_restarts: int = 0
    local_addr: str | None = None

    def rendezvous(self) -> RendezvousParameters:
        """Where torch has the machines meet."""
        more: dict[str, Any] = {"timeout": LATER_S}
        if self.local_addr is not None:  # torch would look for the one that keeps it by host name
            more["is_host"] = self.endpoint.rpartition(":")[0] == self.local_addr
        return RendezvousParameters(
            "c10d", self.endpoint, self.run_id, self.machines, self.machines, self.local_addr, **more
        )


class _StoppedError(Exception):
    """The ranks have ended, and are not to be started again."""


class _Agent(LocalElasticAgent):
    """torch's agent, which knows its ranks' processes, and when not to start them again."""

    def __init__(self, launch: Launch, folder: Path) -> None:
        spec = WorkerSpec(
            role="default",
            local_world_size=launch.ranks,
            entrypoint=sys.executable,
            args=(*PROGRAM, *launch.command),
            rdzv_handler=get_rendezvous_handler(launch.rendezvous()),
            max_restarts=launch.max_restarts,
            monitor_interval=0.1,
            local_addr=launch.local_addr,
        )
        self.rendezvous = spec.rdzv_handler
        super().__init__(spec, DefaultLogsSpecs(log_dir=str(folder / "torch")))
        self.asked: signal.Signals | None = None
        self.processes: list[int] = []
        self.attempt = 0
        self.failures: Mapping[int, ProcessFailure] = {}
        self._launch, self._folder = launch, folder

    def ask(self, number: signal.Signals) -> None:
        """Tells the ranks to end after their round."""
        self.asked = number
        self._pass_on()

    def kill(self) -> None:
        """Kills the ranks, each with what it has started."""
        for process in self.processes:
            with suppress(OSError):
                os.killpg(process, signal.SIGKILL)

    def _pass_on(self) -> None:
        if self.asked is not None:
            for process in self.processes:
                with suppress(OSError):
                    os.kill(process, signal.SIGINT if self.asked == signal.SIGINT else signal.SIGTERM)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        if self.asked is not None:
            raise _StoppedError
        started = super()._start_workers(worker_group)
        self.processes = list(started.values())
        self._pass_on()  # of a signal that came meanwhile
        return started

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result = super()._monitor_workers(worker_group)
        if result.state in (WorkerState.FAILED, WorkerState.UNHEALTHY):
            self.failures = result.failures
        return result

    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        said = self.said()
        mistaken = said.status == MISTAKE and self._launch.machines == 1
        if self.asked is not None or mistaken:
            raise _StoppedError
        self.attempt = self._launch.max_restarts - self._remaining_restarts
        if said.line:
            say(f"{said.line}\nhiso-pl: the ranks are started again ({self.attempt} of {self._launch.max_restarts})")
        self.failures, self.processes = {}, []
        super()._restart_workers(worker_group)

    def said(self) -> reasons.Said:
        """Why the ranks have ended."""
        return reasons.verdict(self.failures, reasons.left(self._folder, self.attempt), self.asked)


@dataclass
class _Work:
    """The agent's thread."""

    launch: Launch
    folder: Path
    agent: _Agent | None = None
    done: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    result: RunResult | None = None

    def run(self) -> None:
        """Starts the ranks and waits for them."""
        try:
            self.agent = _Agent(self.launch, self.folder)
            self.result = self.agent.run()
            self.agent.rendezvous.shutdown()
        except _StoppedError:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.done.set()

    def ask(self, number: signal.Signals) -> bool:
        """Tells the ranks to end after their round, if there are any."""
        if self.agent is None or not self.agent.processes:
            return False
        self.agent.ask(number)
        return True

    def kill(self) -> None:
        """Kills the ranks, and leaves nothing behind."""
        if self.agent is not None:
            self.agent.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def carry_out(launch: Launch) -> int:
    """Starts the ranks of this machine, waits for them, and says the last line if they have failed.

    The first SIGINT, SIGTERM or SIGHUP is handed on to the ranks, which end after their round; another, later one kills
    them, as SIGQUIT does.

    Returns:
        The exit status: that of the rank that failed, or 128 and the number of the signal that ended it.

    Raises:
        RunError: If the machines do not meet.
    """
    _quiet_torch()
    for name, value in (("OMP_NUM_THREADS", "1"), ("TOKENIZERS_PARALLELISM", "false")):
        os.environ.setdefault(name, value)
    with tempfile.TemporaryDirectory(prefix="hiso_pl-launch-") as folder:
        os.environ[environment.BY_LAUNCH] = folder
        os.environ[environment.STARTED_BY] = launch.started_by
        reasons.listen(Path(folder))
        work = _Work(launch, Path(folder))
        try:
            with handed_on(work.ask, work.kill):
                threading.Thread(target=work.run, name="hiso_pl-agent", daemon=True).start()
                work.done.wait()
        finally:
            del os.environ[environment.BY_LAUNCH], os.environ[environment.STARTED_BY]
        # an agent that loses the machine which keeps the store ends its ranks, and these have told why
        if work.error is not None and (work.agent is None or not reasons.left(Path(folder), work.agent.attempt)):
            raise _explained(launch, work) from work.error
        if work.result is not None and not work.result.is_failed():
            return 0
        assert work.agent is not None
        said = work.agent.said()
    say(said.line + (f"\nhiso-pl: go on with: {said.go_on}" if said.go_on else ""))
    return said.status


def _explained(launch: Launch, work: _Work) -> Exception:
    assert work.error is not None
    words = one_line(str(work.error.__cause__ or work.error).partition("\n")[0], 200)
    if launch.endpoint == Launch.endpoint:
        return RunError(f"the ranks cannot be started: {type(work.error).__name__}: {words}")
    if work.agent is not None and work.agent.processes:
        return RunError(
            f"the machine that keeps the rendezvous {launch.endpoint} has ended or is not reached ({words})"
        )
    return RunError(
        f"--rdzv-endpoint={launch.endpoint}: the {launch.machines} machines do not meet there ({words}): HOST must be "
        "one of them, by a name that it knows itself by and the others reach it by, and PORT free there"
    )


def _quiet_torch() -> None:
    """Lets torch's agent be silent, unless its own variable asks it to speak: what it has to say is said here."""
    if "LOGLEVEL" not in os.environ:
        for name in list(logging.root.manager.loggerDict):
            if name.startswith("torch.distributed"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
