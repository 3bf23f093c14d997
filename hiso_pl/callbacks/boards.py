"""What a run hands to a logger of any kind: one seam for curves, texts, pictures and histograms.

Every logger takes numbers and hyperparameters. What one has no place for is left out, never an error;
:mod:`hiso_pl.callbacks.loggers` has the kinds that take more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from lightning.pytorch.loggers import Logger
from numpy.typing import NDArray

from hiso_pl.federation.traffic import BYTES_PER_KB

Plain = str | int | float | bool
LAST = "val/"
BEST = "val_best/"


class Bins(NamedTuple):
    """A histogram.

    Attributes:
        edges: Ascending, shape ``[B + 1]``.
        counts: Shape ``[B]``.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]


class Board:
    """A logger of any kind: numbers, and hyperparameters.

    Args:
        logger: The logger.
        rounds: Rounds done where the run begins or goes on.
    """

    def __init__(self, logger: Logger, rounds: int = 0) -> None:
        self.logger = logger
        self._rounds = rounds
        self._held: dict[str, int] = {}

    def points(self, points: Mapping[str, float], step: int) -> None:
        """Takes points of curves, at a number of rounds done; not again those it has from before a resume."""
        if self._rounds:
            points = {name: value for name, value in points.items() if step > self._last_step(name)}
        if points:
            self.logger.log_metrics(dict(points), step=step)

    def validation(self, found: Mapping[str, float], best: Mapping[str, float], step: int, paper_bytes: int) -> None:
        """Takes a validation, and in the same row the KB sent: a curve by KB is one against the other."""
        better = {BEST + name.removeprefix(LAST): value for name, value in best.items()}
        self.points({**found, **better, "comm/paper_kb": paper_bytes / BYTES_PER_KB}, step)

    def hyperparameters(self, chosen: Mapping[str, Plain], metrics: Sequence[str]) -> None:
        """Takes the options that matter, and where there is a place for it the metrics by which runs are compared."""
        self.logger.log_hyperparams(dict(chosen))

    def text(self, name: str, text: str, step: int) -> None:
        """Takes a text in Markdown."""

    def picture(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        """Takes a picture, shape ``[height, width, 3]``."""

    def histograms(self, found: Mapping[str, Bins], step: int) -> None:
        """Takes histograms."""

    def glance(self, points: Mapping[str, float], step: int) -> None:
        """Takes what is to be seen first, where it is a matter of names."""

    def begin(self, paper_bytes: int) -> None:
        """Prepares for what comes after so many bytes; orders the curves, where that can be told."""

    def save(self) -> None:
        """Has what it was given on disk, so that a kill takes no more than what a resumed run computes again."""
        self.logger.save()

    def _last_step(self, name: str) -> int:
        """The last step of which it has a point of a curve from before the resume."""
        if name not in self._held:
            self._held[name] = self._find_last_step(name)
        return self._held[name]

    def _find_last_step(self, name: str) -> int:
        return -1
