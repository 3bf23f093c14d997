"""The one rule by which a learning rate is chosen, on validation alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from hiso_pl.study.runs import Aim, Outcome

Row = tuple[Outcome, ...]
"""All seeds of one learning rate."""
Grid = list[Row]
"""All learning rates of one method and value."""


def grids(outcomes: Sequence[Outcome]) -> list[Grid]:
    """Runs that are in order, as grids."""
    rows = [tuple(found) for _, found in groupby(outcomes, key=lambda o: (o.setting.group, o.setting.lr))]
    return [list(found) for _, found in groupby(rows, key=lambda row: row[0].setting.group)]


def values(row: Row, name: str) -> list[Any]:
    """One value of an outcome for each run that has it."""
    return [value for outcome in row if (value := getattr(outcome, name)) is not None]


def mean(found: Sequence[float]) -> float:
    """The mean; infinite if there is nothing."""
    return statistics.fmean(found) if found else math.inf


def place(row: Row, aim: Aim) -> tuple[float, float, float]:
    """The place of a rate in its grid; the lowest is the best.

    By ``rounds``: most seeds that reach the target, then fewest rounds to it on average, then the lowest final loss. By
    ``best`` or ``last``: most seeds for which it is a number, then its best mean, then that of the other of the two. By
    ``loss``: most seeds that are complete, then the lowest final loss, infinite if one diverged.
    """
    loss = math.inf if any(values(row, "diverged")) else mean(values(row, "loss"))
    if aim.by == "rounds":
        return -len(values(row, "rounds")), mean(values(row, "rounds")), loss
    if aim.by == "loss":
        return -sum(values(row, "complete")), loss, loss
    sign = 1.0 if aim.lower else -1.0
    chosen, other = (
        [sign * value for value in values(row, name)] for name in (aim.by, "last" if aim.by == "best" else "best")
    )
    return -len(chosen), mean(chosen), mean(other or chosen)


def best(rows: Sequence[Row], aim: Aim) -> Row | None:
    """The row in the lowest place; none if no run of any counts."""
    counting = [row for row in rows if min(place(row, aim)[1:]) < math.inf]
    return min(counting, key=lambda row: place(row, aim), default=None)


def edge(row: Row, grid: Grid) -> str:
    """Which end of its grid a rate is: ``lowest``, ``highest``, or nothing if others lie on both sides."""
    rates = [other[0].setting.lr for other in grid]
    at = row[0].setting.lr
    return "" if len(rates) < 2 else "lowest" if at == min(rates) else "highest" if at == max(rates) else ""
