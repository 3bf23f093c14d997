"""Schedules for mu and the number of directions: pure functions of the round, so a resumed run needs no state.

The learning rate follows torch's own schedulers.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from typing import Any

from typing_extensions import Self

from hiso_pl.zeroth_order.part import Part


class Schedule(Part, ABC):
    """A value that depends on the round. With an option ``rounds`` that is null it is as long as its run."""

    @abstractmethod
    def __call__(self, initial: float, round: int) -> float:
        """The value in ``round``, given the one configured for the start."""

    def over(self, rounds: int) -> Self:
        """The same for a run of so many rounds: its length where its own is left open."""
        return type(self)(**{**self.options, "rounds": rounds}) if getattr(self, "rounds", 0) is None else self

    def at(self, initial: float, round: int, name: str) -> float:
        """The value in a round as a number.

        Args:
            initial: The value configured for the start.
            round: The round r.
            name: The option that the schedule is, as messages name it.

        Raises:
            ValueError: If it is no finite number.
        """
        value: Any = self(initial, round)
        try:
            number = math.nan if isinstance(value, (str, bytes, bool)) else float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):  # of a tensor of several it is a RuntimeError
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"{name}={self!r} gave {str(value)[:80]} in round {round}, must give a finite number")
        return number


class _Way(Schedule):
    """From the initial value to ``final`` over ``rounds``, then constant."""

    def __init__(self, final: float, rounds: int | None = None) -> None:
        if rounds is not None and rounds < 1:
            raise ValueError(f"rounds={rounds} must be at least 1")
        self.final = final
        self.rounds = rounds

    def _share(self, round: int) -> float:
        """Which share of the way is done in a round."""
        if self.rounds is None:
            raise ValueError(f"{self!r} is as long as its run, which is not known here: give it rounds")
        return min(round / self.rounds, 1.0)


class Linear(_Way):
    """From the initial value to ``final`` in a straight line over ``rounds``, then constant.

    Args:
        final: Value from round ``rounds`` on.
        rounds: Length of the way; that of the run if null.
    """

    def __call__(self, initial: float, round: int) -> float:
        """See :class:`Schedule`."""
        return initial + (self.final - initial) * self._share(round)


class Cosine(_Way):
    """From the initial value to ``final`` along half a cosine over ``rounds``, then constant.

    Args:
        final: Value from round ``rounds`` on.
        rounds: Length of the way; that of the run if null.
    """

    def __call__(self, initial: float, round: int) -> float:
        """See :class:`Schedule`."""
        return self.final + (initial - self.final) * 0.5 * (1.0 + math.cos(math.pi * self._share(round)))


class Steps(Schedule):
    """A new value from each milestone on.

    Args:
        milestones: Rounds, ascending.
        values: As many values.
    """

    def __init__(self, milestones: list[int], values: list[float]) -> None:
        if len(milestones) != len(values):
            raise ValueError(f"milestones={milestones} and values={values} must have the same length")
        if any(m < 0 for m in milestones) or any(a >= b for a, b in itertools.pairwise(milestones)):
            raise ValueError(f"milestones={milestones} must be ascending and not negative")
        self.milestones = milestones
        self.values = values

    def __call__(self, initial: float, round: int) -> float:
        """See :class:`Schedule`."""
        value = initial
        for milestone, reached in zip(self.milestones, self.values, strict=True):
            if round >= milestone:
                value = reached
        return value
