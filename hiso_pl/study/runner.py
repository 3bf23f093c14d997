"""Carries out the runs of a study: what is there is not repeated, what was broken off goes on."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import shutil
import signal
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hiso_pl.ranks import early_signals
from hiso_pl.report.run import STUDY
from hiso_pl.run import going_on, lock
from hiso_pl.run.folder import write_atomically
from hiso_pl.study.folders import LOG, MARK, check_root, check_run, last_line, mend, note_asked, prepare
from hiso_pl.study.grid import Ask, Setting, Strategy
from hiso_pl.study.processes import LOST, Handle, Starter, starter
from hiso_pl.study.progress import Progress

log = logging.getLogger(__name__)

EVERY = "trainer.val_check_interval"
MOST_LOST = 3
"""How often a run is gone on with whose parent was killed, before something is wrong with it."""
FULL_BYTES = 1 << 16


class Ended(NamedTuple):
    """How a study's runs have ended.

    Attributes:
        failed: A line for each run that failed.
        signal: The signal that ended the study, or 0.
    """

    failed: list[str]
    signal: int


def carry_out(
    root: Path,
    common: Mapping[str, str],
    strategy: Strategy,
    nproc: int = 1,
    jobs: int = 1,
    shown: bool = True,
    by: Starter | None = None,
    told: str = "",
) -> Ended:
    """Carries out what a strategy asks for, at most ``jobs`` runs at a time; one that fails stops no other.

    The first SIGINT, SIGTERM or SIGHUP ends the runs after their rounds, another one, a second later, at once.

    Args:
        root: Folder of the study.
        common: What makes it the same study, by dotted keys.
        strategy: What is asked what comes next, whenever a run has ended.
        nproc: Ranks of a run.
        jobs: Most runs at a time.
        shown: Whether progress is.
        by: How runs become processes, if that is to be chosen.
        told: The study as a file, which the folder is to hold.

    Raises:
        ValueError: If the folder holds something else or is in use, or a run is to stop where there is no validation.
        OSError: If something cannot be written; the runs under way are ended after their rounds.
    """
    with lock.held(root) as kept:
        check_root(root, common)
        mend(root)
        for ask in strategy.next():
            _check(ask)
        note_asked(root, None, common)
        write_atomically(root / STUDY, told)
        return _Runs(root, strategy, jobs, by or starter(nproc, kept), Progress(root, jobs, shown)).carry_out()


def _check(ask: Ask) -> None:
    """Refuses what cannot be carried out.

    Raises:
        ValueError: If so.
    """
    check_run(ask)
    every = ask.configuration.get(EVERY, "")
    if ask.until is not None and (not every.isdigit() or ask.until % int(every)):
        raise ValueError(f"{ask.folder} cannot be judged after {ask.until} rounds: {EVERY}={every} must divide them")


class _Runs:
    """The runs under way."""

    def __init__(self, root: Path, strategy: Strategy, jobs: int, by: Starter, progress: Progress) -> None:
        self._root, self._strategy, self._jobs, self._by, self._progress = root, strategy, jobs, by, progress
        self._running: dict[Setting, tuple[Ask, Handle]] = {}
        self._failed: dict[Setting, str] = {}
        self._lost: Counter[Setting] = Counter()
        self._came: list[int] = []

    def carry_out(self, pause_s: float = 0.1) -> Ended:
        """Carries them out."""
        heard = [n for n in early_signals.WORDS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
        before = {n: signal.signal(n, lambda number, _: self._came.append(number)) for n in heard}
        try:
            with self._progress:
                while not self._came and self._begin():
                    while not self._came and not any(self._poll()):
                        self._progress.show([ask for ask, _ in self._running.values()])
                        time.sleep(pause_s)
                if self._came and self._running:
                    log.warning(
                        "Interrupted: %d run(s) end after the round under way; the same command goes on.",
                        len(self._running),
                    )
        finally:  # also after an error of the study's own
            self._end(pause_s)
            self._by.close()
            for number, handler in before.items():
                signal.signal(number, handler)
        return Ended([*self._failed.values()], self._came[0] if self._came else 0)

    def _begin(self) -> bool:
        """Begins what may be begun; whether anything is under way."""
        asks = self._strategy.next(self._failed.keys())
        self._progress.plan(self._strategy, asks)
        waiting = [ask for ask in asks if ask.setting not in self._running]
        for ask in waiting[: max(0, self._jobs - len(self._running))]:
            self._running[ask.setting] = (ask, self._start(ask))
        return bool(self._running)

    def _start(self, ask: Ask) -> Handle:
        """Lets a run go on from its checkpoint, or begin."""
        _check(ask)
        goes_on = prepare(ask)
        arguments = ["fit", *ask.arguments, *(["--ckpt_path", "last"] if goes_on else [])]
        with (ask.folder / LOG).open("ab") as said:
            said.write(f"{MARK}{going_on.program()} {shlex.join(arguments)}\n".encode())
        self._progress.begun(ask, goes_on)
        return self._by.start(arguments, ask.folder / LOG, ask.until)

    def _poll(self) -> list[Ask]:
        """What has ended."""
        ended = [(ask, status) for ask, run in self._running.values() if (status := run.poll()) is not None]
        for ask, _ in ended:
            del self._running[ask.setting]
        wanted = {(ask.setting, ask.until) for ask in self._strategy.next(self._failed.keys())} if ended else set()
        for ask, status in ended:
            short = (ask.setting, ask.until) in wanted
            self._progress.ended(ask, not short)
            if short and status == LOST and self._lost[ask.setting] < MOST_LOST:
                self._lost[ask.setting] += 1
                log.warning("%s: the process that it was a fork of was killed; it is gone on with", ask.folder)
            elif short:
                self._fail(ask, status)
        return [ask for ask, _ in ended]

    def _fail(self, ask: Ask, status: int) -> None:
        said, full = last_line(ask.folder), os.strerror(errno.ENOSPC)
        self._failed[ask.setting] = f"{ask.folder} ended with status {status}: {said}"
        log.error("%s", self._failed[ask.setting])
        if full in said or shutil.disk_usage(self._root).free < FULL_BYTES:
            raise OSError(errno.ENOSPC, full, str(ask.folder))  # and so it would be with the others

    def _end(self, pause_s: float) -> None:
        """Has all runs end after their rounds, or at once if another signal comes."""
        told = -1
        while self._running:
            if len(self._came) > told:
                for _, run in self._running.values():
                    run.interrupt()
                told = len(self._came)
            self._running = {key: run for key, run in self._running.items() if run[1].poll() is None}
            time.sleep(pause_s if self._running else 0.0)
