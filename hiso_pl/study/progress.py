"""How far a study has come: a bar with the time left and the runs under way, or lines where there is no terminal."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiso_pl.run.folder import SUMMARY
from hiso_pl.study.folders import LOG, MARK, read_json

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from hiso_pl.study.grid import Ask, Setting, Strategy

log = logging.getLogger(__name__)

ROUNDS = "trainer.max_steps"
TAIL_BYTES = 4096
_ROUND = re.compile(rb"\bround (\d+)/\d+")


@dataclass
class _Begun:
    """A run under way: when it was begun, at which round, and how far it is to go."""

    at: float
    first: int
    last: int
    now: int
    task: TaskID | None = None


class Progress:
    """Shows a study's progress on the standard error stream.

    Args:
        root: Folder of the study.
        jobs: Most runs at a time.
        shown: Whether anything is; failures and damage are said in any case.
    """

    def __init__(self, root: Path, jobs: int, shown: bool) -> None:
        self._root, self._jobs, self._shown = root, jobs, shown
        self._begun: dict[Setting, _Begun] = {}
        self._spent_s, self._rounds, self._ended = 0.0, 0, 0
        self._done = self._all = 0
        self._asks: Sequence[Ask] = ()
        self._bar: Bar | None = None
        self._whole: TaskID | None = None
        self._streams: list[tuple[logging.StreamHandler[Any], Any]] = []

    def __enter__(self) -> Progress:
        """Shows the bar, above which all lines go from here on."""
        if not (self._shown and sys.stderr.isatty()):
            return self
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} {task.fields[said]}"),
        )
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
        handlers = [h for h in logging.getLogger().handlers if isinstance(h, logging.StreamHandler)]
        self._streams = [(handler, handler.stream) for handler in handlers if handler.stream is sys.stderr]
        self._bar.start()
        for handler, _ in self._streams:
            handler.setStream(sys.stderr)  # the bar's own from here on
        self._whole = self._bar.add_task("runs", visible=False, said="")
        return self

    def __exit__(self, *_: object) -> None:
        """Takes the bar away."""
        for handler, stream in self._streams:
            handler.setStream(stream)
        if self._bar is not None:
            self._bar.stop()

    def plan(self, strategy: Strategy, asks: Sequence[Ask]) -> None:
        """Takes what the strategy has said comes next, and how much there will be."""
        if not self._all:
            log.log(self._level, "%d runs, %d of them there already", strategy.foreseen, strategy.reached)
        self._done, self._all = strategy.reached, max(strategy.foreseen, strategy.reached + len(asks))
        self._asks = asks

    def begun(self, ask: Ask, goes_on: bool) -> None:
        """A run has begun, or goes on."""
        first = _rounds_kept(ask) if goes_on else 0
        begun = _Begun(time.monotonic(), first, _last(ask), first)
        if self._bar is not None:
            begun.task = self._bar.add_task(self._name(ask), total=begun.last, completed=first, said="rounds")
        self._begun[ask.setting] = begun
        log.log(self._level, "%s: %s", ask.folder, f"goes on to round {begun.last}" if goes_on else "begins")

    def ended(self, ask: Ask, well: bool) -> None:
        """A run has ended, as far as it was asked to go or short of that."""
        begun = self._begun.pop(ask.setting)
        if self._bar is not None and begun.task is not None:
            self._bar.remove_task(begun.task)
        if not well:
            return
        self._spent_s += time.monotonic() - begun.at
        self._rounds, self._ended = self._rounds + begun.last - begun.first, self._ended + 1
        self._done += 1
        self._asks = [other for other in self._asks if other.setting != ask.setting]
        rounds = _rounds_kept(ask)
        what = "complete" if rounds == _last(ask) and ask.until is None else f"at round {rounds}"
        told = ", ".join(filter(None, (what, f"{self._done} of {self._all}", self._left())))
        log.log(self._level, "%s: %s", ask.folder, told)

    def show(self, running: Sequence[Ask]) -> None:
        """Moves the bar on."""
        if self._bar is None or self._whole is None:
            return
        for ask in running:
            begun = self._begun[ask.setting]
            begun.now = max(begun.now, _rounds_said(ask.folder / LOG))
            if begun.task is not None:
                self._bar.update(begun.task, completed=begun.now)
        self._bar.update(self._whole, completed=self._done, total=self._all, said=self._left(), visible=True)

    @property
    def _level(self) -> int:
        return logging.INFO if self._shown else logging.DEBUG

    def _name(self, ask: Ask) -> str:
        return str(ask.folder.relative_to(self._root)) if ask.folder.is_relative_to(self._root) else str(ask.folder)

    def _left(self) -> str:
        """The time left, by what a round has taken with all that belongs to a run; nothing before one has ended."""
        if not self._rounds:
            return ""
        rate = self._spent_s / self._rounds
        rest = [_last(ask) - _rounds_kept(ask) for ask in self._asks if ask.setting not in self._begun]
        known = sum(rest) + sum(begun.last - begun.now for begun in self._begun.values())
        unknown = max(0, self._all - self._done - len(rest) - len(self._begun))
        seconds = (known * rate + unknown * self._spent_s / self._ended) / self._jobs
        return f"{timedelta(seconds=round(seconds))} left" if seconds else ""


@contextmanager
def said_once() -> Iterator[None]:
    """Lets no line of this package's be logged twice in the block, as what each of many configurations leaves out."""
    filters = [(handler, _First()) for handler in logging.getLogger().handlers]
    for handler, first in filters:
        handler.addFilter(first)
    try:
        yield
    finally:
        for handler, first in filters:
            handler.removeFilter(first)


class _First(logging.Filter):
    """Lets each line of this package's through the first time."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        line, before = record.getMessage(), len(self._said)
        self._said.add(line)
        return not record.name.startswith("hiso_pl") or len(self._said) > before


def _last(ask: Ask) -> int:
    """The round that a run is to come to."""
    most = ask.configuration.get(ROUNDS, "")
    return ask.until or (int(most) if most.isdigit() else 0)


def _rounds_kept(ask: Ask) -> int:
    """The rounds that a run had come to when it last ended in order."""
    summary = read_json(ask.folder / SUMMARY)
    rounds = summary.get("rounds") if isinstance(summary, dict) else 0
    return rounds if type(rounds) is int else 0


def _rounds_said(path: Path) -> int:
    """The round that a run has last told of since it was begun."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        found = _ROUND.findall(file.read().rpartition(MARK.encode())[2])
        return int(found[-1]) if found else 0
    return 0
