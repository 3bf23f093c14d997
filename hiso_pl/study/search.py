"""The strategy of a study: the plans of all groups side by side, each begun anew where what it waited for is there.

What a run has come to at a round is read from its validations up to there, however far it has gone since; so a plan is
a pure function of the folders, and a study that was stopped anywhere goes on to the same table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any, NamedTuple

from hiso_pl.nearest import did_you_mean
from hiso_pl.report.choice import Row
from hiso_pl.report.outcome import at, outcome
from hiso_pl.report.run import read_run
from hiso_pl.report.run_data import COSTS, METRICS, Aim, RunData
from hiso_pl.study.grid import Ask, Grid, Group, Setting
from hiso_pl.study.names import StudyError
from hiso_pl.study.state import as_far_as_wanted
from hiso_pl.study.way import Found, Way


class Stage(NamedTuple):
    """Where a group's plan stands: what it waits for, how many asks were met before, and how many there will be."""

    missing: list[Ask]
    reached: int
    foreseen: int


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


def _made_up(aim: Aim) -> Row:
    """A row of a run that is yet to come, for counting what will follow."""
    numbers = ("best", "last", "loss", *(at(cost, target) for target in aim.targets for cost in COSTS))
    return {"complete": True, "diverged": False, **dict.fromkeys(numbers, 0.0)}
