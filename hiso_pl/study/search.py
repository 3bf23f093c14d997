"""How the learning rate of each method is found: a plan that asks for runs, and goes by what their folders hold.

A plan is a generator for one group. It yields runs that it wants, or their first rounds, is sent what they have come
to, and yields the next. It is begun anew whenever the study asks what comes next, and sent what is there already; so it
is a pure function of the folders, and a study that was stopped anywhere goes on to the same table. What a run has come
to at a round is read from its validations up to there, however far it has gone since.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from hiso_pl.nearest import did_you_mean
from hiso_pl.report.choice import Row, best, edge
from hiso_pl.report.outcome import at, outcome
from hiso_pl.report.run import read_run
from hiso_pl.report.run_data import COSTS, METRICS, Aim, RunData
from hiso_pl.study.file import Study
from hiso_pl.study.grid import Ask, Grid, Group, Setting
from hiso_pl.study.names import StudyError
from hiso_pl.study.state import as_far_as_wanted

ROUNDS, EVERY = "trainer.max_steps", "trainer.val_check_interval"


class Want(NamedTuple):
    """A run of a group that is wanted, or its rounds ``until`` one."""

    lr: float
    seed: int
    until: int | None = None


class Found:
    """What wanted runs have come to, read when it is asked for.

    Args:
        rows: Gives for each run its row of a table, and what they are judged by.
    """

    def __init__(self, rows: Callable[[], tuple[list[Row], Aim]]) -> None:
        self._rows = rows

    @cached_property
    def _read(self) -> tuple[list[Row], Aim]:
        return self._rows()

    @property
    def rows(self) -> list[Row]:
        """A row for each run, as :func:`hiso_pl.report.outcome.outcome` gives it at the round that was wanted."""
        return self._read[0]

    @property
    def aim(self) -> Aim:
        """What they are judged by."""
        return self._read[1]


class Stage(NamedTuple):
    """Where a group's plan stands: what it waits for, how many asks were met before, and how many there will be."""

    missing: list[Ask]
    reached: int
    foreseen: int


Plan = Generator[list[Want], Found, Any]
"""Yields runs that it wants, is sent what they have come to, and may return something to be kept."""


@dataclass(frozen=True)
class Way:
    """A way of finding rates; its fields are its options."""

    def plan(self, group: Group, study: Study) -> Plan:
        """The plan of a group."""
        raise NotImplementedError

    def store(self, root: Path, returned: Mapping[str, Any]) -> None:
        """Keeps in the study's folder what the plans of its groups have returned, by the groups' names."""


@dataclass(frozen=True)
class Whole(Way):
    """All rates with all seeds, in full.

    Args:
        extend: How many rates beyond the edge are tried, one after the other, where the best is at it.
    """

    extend: int = 0

    def __post_init__(self) -> None:
        """Checks the options."""
        check_count("extend", self.extend)

    def plan(self, group: Group, study: Study) -> Plan:
        """The plan of a group."""
        rates: dict[float | None, Sequence[Row]] = {}
        new = list(group.lrs)
        for left in range(self.extend, -1, -1):
            found = yield [Want(lr, seed) for seed in study.seeds for lr in new]
            if not left:
                return
            for i, lr in enumerate(new):
                rates[lr] = found.rows[i :: len(new)]
            if (further := beyond(best(rates, found.aim), [*rates])) is None:
                return
            new = [further]


class Search:
    """The strategy of a study: the plans of all groups, side by side.

    Args:
        grid: The study as runs.
        way: How rates are found.
    """

    def __init__(self, grid: Grid, way: Way) -> None:
        self.grid, self.way = grid, way
        self.returned: dict[str, Any] = {}
        self._seen: set[tuple[Setting, int | None]] = set()
        self._read_already: dict[tuple[Setting, int | None], RunData] = {}
        self._stages = [self._stage(group, look=False) for group in grid.groups]  # what cannot be is said at once
        self._looked = False

    def next(self, failed: Collection[Setting] = ()) -> list[Ask]:
        """Every run that is not yet as far as it is wanted; see :class:`~hiso_pl.study.grid.Strategy`."""
        for i, group in enumerate(self.grid.groups):
            if not self._looked or (self._stages[i].missing and not self._missing(i)):
                self._stages[i] = self._stage(group)
        self._looked = True
        asks = [ask for i in range(len(self._stages)) for ask in self._missing(i)]
        seeds = self.grid.study.seeds
        asks.sort(key=lambda ask: seeds.index(ask.setting.seed))  # so that an early look is of whole grids
        return [ask for ask in asks if ask.setting not in failed]

    @property
    def reached(self) -> int:
        """How many asks were met when it was last asked."""
        return sum(s.reached + sum((a.setting, a.until) in self._seen for a in s.missing) for s in self._stages)

    @property
    def foreseen(self) -> int:
        """How many asks there will be in all, if all runs yet to come are equal."""
        return sum(stage.foreseen for stage in self._stages)

    def _missing(self, i: int) -> list[Ask]:
        return [ask for ask in self._stages[i].missing if not self._is_there(ask)]

    def _stage(self, group: Group, look: bool = True) -> Stage:
        """Follows a group's plan to what it wants and is not there, and from there to its end as if all were equal."""
        plan, missing = self.way.plan(group, self.grid.study), list[Ask]()
        reached = foreseen = 0
        try:
            wants = next(plan)
            while True:
                asks = {want: self.grid.ask(group, *want) for want in wants}
                foreseen += len(asks)
                if not missing:
                    missing = [ask for ask in asks.values() if not (look and self._is_there(ask))]
                    reached += len(asks) - len(missing)
                rows = partial(self._rows, [asks[want] for want in wants], made_up=bool(missing))
                wants = plan.send(Found(rows))
        except StopIteration as end:
            if not missing:
                self.returned[group.name] = end.value
        return Stage(missing, reached, foreseen)

    def _is_there(self, ask: Ask) -> bool:
        key = (ask.setting, ask.until)
        if key not in self._seen and as_far_as_wanted(ask):
            self._seen.add(key)
        return key in self._seen

    def _rows(self, asks: Sequence[Ask], made_up: bool) -> tuple[list[Row], Aim]:
        study = self.grid.study
        if made_up:
            aim = Aim(study.metric or METRICS[0], study.by, study.targets)
            return [_made_up(aim) for _ in asks], aim
        runs = [self._read(ask) for ask in asks]
        common = frozenset.intersection(*(run.metrics for run in runs))
        usual = next((name for name in METRICS if name in common), METRICS[0])
        aim = Aim(study.metric or usual, study.by, study.targets)
        if common and aim.metric not in common:
            raise ValueError(f"metric={aim.metric} must be one of {', '.join(sorted(common))}")
        return [outcome(run, aim) | {"complete": True} for run in runs], aim

    def _read(self, ask: Ask) -> RunData:
        """A run as it stood at the round that was wanted, which it does for good."""
        key = (ask.setting, ask.until)
        if key not in self._read_already:
            run = read_run(ask.folder)
            if ask.until is not None:
                seen = run.curve[run.curve["round"] <= ask.until]
                there = bool((run.curve["round"] >= ask.until).any())  # what came later is not known yet
                run = replace(run, complete=False, curve=seen, summary={} if there else run.summary)
            self._read_already[key] = run
        return self._read_already[key]


def way_of(rates: Mapping[str, Mapping[str, Any]], ways: Mapping[str, type[Way]]) -> Way:
    """The way of finding rates that a study asks for, by its name.

    Raises:
        StudyError: If there is none of that name, or an option of it cannot be.
    """
    ((name, options),) = rates.items()
    if name not in ways:
        raise StudyError(("rates",), f"={name} must be one of {', '.join(ways)}{did_you_mean(name, ways)}")
    known = [option.name for option in fields(ways[name])]
    for option in options:
        if option not in known:
            meant = did_you_mean(option, known) or f": there are {', '.join(known)}"
            raise StudyError(("rates", name, option), f" is no option of {name}{meant}")
    try:
        return ways[name](**options)
    except ImportError:
        raise StudyError(("rates",), f"={name} needs a package of that name: install hiso_pl[{name}]") from None
    except ValueError as error:
        raise StudyError(("rates", name), f".{error}") from None


def rungs(group: Group, first: float, keep: float) -> list[int]:
    """The rounds after which rates are compared: a part of all, then 1 / keep times as many, each at a validation.

    Raises:
        ValueError: If validations are not every so many rounds.
    """
    total, every = (group.configuration.get(key, "") for key in (ROUNDS, EVERY))
    if not (total.isdigit() and every.isdigit() and int(every) > 0):
        raise ValueError(f"{EVERY}={every} must be a number of rounds: rates are compared at validations")
    found, share = list[int](), first
    while share < 1.0:
        found.append(math.ceil(int(total) * share / int(every) - 1e-9) * int(every))
        share /= keep
    return [rung for rung in dict.fromkeys(found) if rung < int(total)]


def beyond(rate: float | None, rates: Collection[float | None]) -> float | None:
    """The next rate where one is at the edge of a grid, as far off as its neighbour; else none."""
    known = [other for other in rates if other is not None]
    if rate is None or not (end := edge(rate, known)):
        return None
    ascending = sorted(known, reverse=end == "lowest")
    new = float(f"{ascending[-1] / ascending[-2] * rate:.3g}")
    return new if 0.0 < new < math.inf and new not in known else None


def check_count(name: str, value: Any, least: int = 0) -> None:
    """Sees to it that an option is a whole number.

    Raises:
        ValueError: If it is none.
    """
    if type(value) is not int or value < least:
        raise ValueError(f"{name}={value} must be an integer of at least {least}")


def check_share(name: str, value: Any) -> None:
    """Sees to it that an option is a part of a whole.

    Raises:
        ValueError: If it is none.
    """
    if type(value) not in (int, float) or not 0.0 < value < 1.0:
        raise ValueError(f"{name}={value} must lie between 0 and 1")


def _made_up(aim: Aim) -> Row:
    """A row of a run that is yet to come, for counting what will follow."""
    numbers = ("best", "last", "loss", *(at(cost, target) for target in aim.targets for cost in COSTS))
    return {"complete": True, "diverged": False, **dict.fromkeys(numbers, 0.0)}
