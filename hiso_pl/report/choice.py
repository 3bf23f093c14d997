"""The one rule by which a learning rate is chosen, on validation alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from hiso_pl.report.outcome import at, outcome
from hiso_pl.report.run_data import Aim, RunData

Row = Mapping[str, Any]
"""What one run has come to, by :func:`~hiso_pl.report.outcome.outcome`."""

WORDS = {
    "rounds": "most seeds at the target, then fewest rounds to it, then most seeds run, then the lowest final loss",
    "loss": "the lowest final val/loss",
}


def rule(aim: Aim) -> str:
    """What the rule chooses, in words."""
    return WORDS.get(aim.by, f"the best mean of the {aim.by} {aim.metric}")


def place(rows: Sequence[Row], aim: Aim) -> tuple[float, ...]:
    """The place of a rate among others by what its seeds have come to; the lowest is the best.

    By ``rounds``: most seeds that reach the first target, then fewest rounds to it on average, then most seeds that are
    complete, so that no rate is told which a search gave up for another, then the lowest final loss. By ``best`` or
    ``last``: most seeds for which it is a number, then its best mean, then that of the other of the two. By ``loss``:
    most seeds that are complete, then the lowest final loss, infinite if one diverged. Runs that are not complete do
    not count, but for those that never will be, as they have diverged.
    """
    rows = [row for row in rows if row["complete"] or row.get("stopped")]
    loss = math.inf if any(row["diverged"] for row in rows) else _mean(_known(rows, "loss"))
    if aim.by == "rounds":
        rounds = _known(rows, at("rounds", aim.targets[0]))
        return -len(rounds), _mean(rounds), -len(rows), loss
    if aim.by == "loss":
        return -len(rows), loss, loss
    sign = 1.0 if aim.lower else -1.0
    chosen, other = (
        [sign * value for value in _known(rows, name)] for name in (aim.by, "last" if aim.by == "best" else "best")
    )
    return -len(chosen), _mean(chosen), _mean(other or chosen)


def counts(found: tuple[float, ...]) -> bool:
    """Whether a place is that of a rate which has come to something."""
    return min(found[1], found[-1]) < math.inf


def best(rates: Mapping[float | None, Sequence[Row]], aim: Aim) -> float | None:
    """The rate in the lowest place, of equal ones the first; none if no run of any counts."""
    places = {rate: place(rows, aim) for rate, rows in rates.items()}
    counting = [rate for rate, found in places.items() if counts(found)]
    return min(counting, key=lambda rate: places[rate], default=None)


def best_of_runs(rates: Mapping[float | None, Sequence[RunData]], aim: Aim) -> float | None:
    """The same for runs."""
    return best({rate: [outcome(run, aim) for run in runs] for rate, runs in rates.items()}, aim)


def edge(rate: float | None, rates: Sequence[float | None]) -> str:
    """Which end of its grid a rate is: ``lowest``, ``highest``, or nothing if others lie on both sides."""
    known = [other for other in rates if other is not None]
    if rate is None or len(known) < 2:
        return ""
    return "lowest" if rate == min(known) else "highest" if rate == max(known) else ""


def _known(rows: Sequence[Row], name: str) -> list[float]:
    return [float(row[name]) for row in rows if not math.isnan(row[name])]


def _mean(found: Sequence[float]) -> float:
    return statistics.fmean(found) if found else math.inf
