"""Carries out the runs of a study: what is complete is not repeated, what was broken off goes on."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hiso_pl.ranks import early_signals
from hiso_pl.run import lock
from hiso_pl.run.checkpoint import newest
from hiso_pl.run.folder import held_by_run, json_text, write_atomically
from hiso_pl.study.grid import FOLDER, RATE, Resolve, Setting, Study
from hiso_pl.study.runs import ASKED, complete_summary

log = logging.getLogger(__name__)

LOG = "fit.log"
MARK = "hiso-pl study runs: "  # begins each part of a log
FREE = (FOLDER, "trainer.enable_progress_bar")  # what may change between two calls


@dataclass(frozen=True)
class Run:
    """A run that is asked for: its folder, what it has of its own, its command and its whole configuration."""

    folder: Path
    setting: Setting
    command: Sequence[str]
    asked: Mapping[str, str]

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to do."""
        return bool(complete_summary(self.folder, self.asked))


def plan(study: Study, resolve: Resolve, nproc: int = 1) -> list[Run]:
    """All runs that are asked for, each of ``nproc`` ranks, which are launched if they are more than one.

    Raises:
        ValueError: If a configuration cannot be understood, or a folder holds a run of another.
    """
    ranks = ["launch", "--nproc", str(nproc)] if nproc > 1 else []
    runs = []
    for setting in study.settings(resolve):
        arguments, folder = study.arguments(setting), study.root / setting.folder
        command = [sys.executable, "-m", "hiso_pl", *ranks, "fit", *arguments]
        runs.append(Run(folder, setting, command, resolve(arguments)))
        check_asked(folder, runs[-1].asked)
    return runs


def carry_out_study(study: Study, resolve: Resolve, nproc: int, jobs: int) -> tuple[list[str], int]:
    """Carries out what is missing of a study; arguments as :func:`plan`, result as :func:`carry_out`.

    Raises:
        ValueError: As :func:`plan`; and if the root holds another study or is in use.
    """
    common = {key: value for key, value in resolve(study.base()).items() if key != RATE}
    with lock.held(study.root) as fd:
        check_asked(study.root, common)
        runs = plan(study, resolve, nproc)
        note_asked(study.root, None, common)
        todo = [run for run in runs if not run.complete]
        log.info("%d runs, %d of them complete already", len(runs), len(runs) - len(todo))
        return carry_out(todo, jobs, fd)


def check_asked(folder: Path, asked: Mapping[str, str]) -> None:
    """Refuses a folder that holds a run, or a study, of another configuration.

    Raises:
        ValueError: If it does, or holds a run that no study has begun.
    """
    path = folder / ASKED
    if not path.exists():
        if held_by_run(folder):
            raise ValueError(f"{folder} holds a run that this study has not begun: give another --root")
        return
    before = json.loads(path.read_text(encoding="utf-8"))["configuration"]
    for key in sorted({*before, *asked} - set(FREE)):
        was, now = before.get(key, "absent"), asked.get(key, "absent")
        if was != now:
            raise ValueError(f"{folder} holds runs with {key}={was}, but {now} is asked: give another --root")


def note_asked(folder: Path, setting: Setting | None, asked: Mapping[str, str]) -> None:
    """Notes in a folder what is asked of it; the root of a study has no setting."""
    noted = {"setting": setting and asdict(setting), "configuration": dict(asked)}
    write_atomically(folder / ASKED, json_text(noted, 1) + "\n")


def start(run: Run, kept: int | None) -> subprocess.Popen[bytes]:
    """Lets a run go on from its checkpoint, or begin; what is left of one without a checkpoint is thrown away.

    It has a session of its own, so that a terminal's Ctrl-C reaches it through the study only, and keeps the study's
    lock. One that somebody else is carrying out is left as it is, and refuses to be started.

    Raises:
        ValueError: If what would be thrown away is no run of a study.
    """
    resume = ["--ckpt_path", "last"] if newest(run.folder) is not None else []
    if not resume:
        left = [path.name for path in run.folder.iterdir() if path.name != lock.LOCK] if run.folder.is_dir() else []
        if left and ASKED not in left:
            raise ValueError(f"{run.folder} holds {left[0]!r} and no {ASKED}, so it is of no study: move it away")
        with contextlib.suppress(lock.InUseError), lock.held(run.folder):
            shutil.rmtree(run.folder, ignore_errors=True)
            note_asked(run.folder, run.setting, run.asked)
    log.info("%s: %s", run.folder, "goes on" if resume else "begins")
    command = [*run.command, *resume]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with (run.folder / LOG).open("ab") as said:
        said.write(f"{MARK}{shlex.join(command)}\n".encode())
        said.flush()
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=environment,
            start_new_session=True,
            pass_fds=[] if kept is None else [kept],
        )


def carry_out(runs: Sequence[Run], jobs: int, kept: int | None, pause: float = 0.1) -> tuple[list[str], int]:
    """Carries out runs, at most ``jobs`` at a time; one that fails does not keep the others from going on.

    They keep the open file of the study's lock, and are looked at every ``pause`` seconds.

    Returns:
        What went wrong, a line for each failed run, and the signal that ended the study, or 0.
    """
    waiting, failed, came = deque(runs), list[str](), list[int]()
    running: dict[subprocess.Popen[bytes], Run] = {}
    heard = [n for n in early_signals.WORDS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    before = {n: signal.signal(n, lambda number, _: came.append(number)) for n in heard}
    try:
        while (running or waiting) and not came:
            while waiting and len(running) < jobs:
                run = waiting.popleft()
                running[start(run, kept)] = run
            for process in [process for process in running if process.poll() is not None]:
                run = running.pop(process)
                if run.complete:
                    log.info("%s: complete, %d left", run.folder, len(waiting) + len(running))
                else:
                    failed.append(f"{run.folder} ended with status {process.returncode}: {last_line(run.folder)}")
                    log.error("%s", failed[-1])
            time.sleep(pause)
        if came:
            log.warning("Interrupted: %d run(s) end after the round under way. Start again to go on.", len(running))
    finally:  # also after an error of the study's own
        for process in running:
            process.send_signal(signal.SIGINT)
        for process in running:
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    return failed, came[0] if came else 0


def last_line(folder: Path) -> str:
    """The last line a run has said since it was last started, or its error if it has named one."""
    text = (folder / LOG).read_text(encoding="utf-8", errors="replace").rpartition(MARK)[2]
    lines = text.strip().splitlines()[1:]  # the first is the command
    said = [line for line in lines if "error" in line.lower() and "hiso-pl" in line]
    return (said or lines or ["it said nothing"])[-1].strip()
