"""Curves of several seeds as one: a mean where all of them have data, and each for itself beyond."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hiso_pl.report.run import RunData

COLUMNS = {"rounds": "round", "paper_kb": "paper_kb", "protocol_kb": "protocol_kb"}
COLUMNS |= {"forwards": "forwards", "seconds": "seconds", "simulated_s": "simulated_s"}
"""The column of a run's curve, for each of what a metric is drawn by."""


@dataclass(frozen=True)
class Alone:
    """A line of one seed: a run that diverged, or what is left where another seed has no data any more."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    diverged: bool


@dataclass(frozen=True)
class Band:
    """What is drawn of the seeds of one learning rate.

    Attributes:
        x: Where all seeds that did not diverge have data, at every one's validations.
        mean: Their mean there.
        low: The lowest of them there.
        high: The highest of them there.
        alone: Lines of single seeds.
        seeds: How many the mean is of.
        diverged: How many diverged.
    """

    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    alone: tuple[Alone, ...]
    seeds: int
    diverged: int

    @property
    def first(self) -> float:
        """The value with which it begins."""
        return float((*self.mean[:1], *(line.y[0] for line in self.alone))[0])

    @property
    def last(self) -> float:
        """Where the last line ends."""
        return max([*self.x[-1:].tolist(), *(float(line.x[-1]) for line in self.alone)])


def points(run: RunData, metric: str, by: str) -> NDArray[np.float64]:
    """The validations of a run of which both are known, shape ``[n, 2]``, in order."""
    import numpy as np

    frame, column = run.curve, COLUMNS[by]
    if metric not in frame or column not in frame:
        return np.empty((0, 2))
    found = frame[[column, metric]].to_numpy(dtype=np.float64)
    found = found[np.isfinite(found).all(axis=1)]
    return found[np.argsort(found[:, 0], kind="stable")]


def band(runs: Sequence[RunData], diverged: Sequence[bool], metric: str, by: str) -> Band | None:
    """The seeds of one learning rate on a common grid; nothing if there are no data.

    On the grid, that of all validations of all seeds between the last first and the first last of them, a seed's value
    is interpolated linearly between its own validations. Nothing is extrapolated: from where one seed has no data any
    more, the others go on alone. A run that diverged is alone from the beginning: a mean with 1e30 says nothing.
    """
    import numpy as np

    found = [(points(run, metric, by), lost) for run, lost in zip(runs, diverged, strict=True)]
    alone = [Alone(line[:, 0], line[:, 1], True) for line, lost in found if lost and len(line)]
    lines = [line for line, lost in found if not lost and len(line)]
    if not lines:
        none = np.empty(0)
        return Band(none, none, none, none, tuple(alone), 0, len(alone)) if alone else None
    begin, end = max(line[0, 0] for line in lines), min(line[-1, 0] for line in lines)
    grid = np.unique(np.concatenate([line[:, 0] for line in lines]))
    grid = grid[(grid >= begin) & (grid <= end)]
    values = np.array([np.interp(grid, line[:, 0], line[:, 1]) for line in lines]).reshape(len(lines), len(grid))
    counts = len(alone)
    for line in lines:
        x = np.unique([begin, end, *line[:, 0]]) if len(grid) else line[:, 0]
        x = x[(x >= line[0, 0]) & (x <= line[-1, 0])]
        for part in (x[x <= begin], x[x >= end]) if len(grid) else (x,):
            if len(part) > 1 or not len(grid):
                alone.append(Alone(part, np.interp(part, line[:, 0], line[:, 1]), False))
    mean, low, high = (f(values, axis=0) for f in (np.mean, np.min, np.max)) if len(grid) else (grid, grid, grid)
    return Band(grid, mean, low, high, tuple(alone), len(lines), counts)
