"""What a way of finding learning rates is written with: a plan asks for runs, and goes by what their folders hold.

A plan is a generator for one group. It yields runs that it wants, or their first rounds, is sent what they have come
to, and yields the next. It is begun anew whenever that has changed, and sent what is there already; so it must be a
pure function of what it is sent.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from hiso_pl.report.choice import Row, edge
from hiso_pl.report.run_data import Aim
from hiso_pl.study.file import Study
from hiso_pl.study.grid import Group

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


Plan = Generator[list[Want], Found, Any]
"""Yields runs that it wants, is sent what they have come to, and may return something to be kept."""


@dataclass(frozen=True)
class Way(ABC):
    """A way of finding rates; its fields are its options."""

    @abstractmethod
    def plan(self, group: Group, study: Study) -> Plan:
        """The plan of a group."""

    def store(self, root: Path, returned: Mapping[str, Any]) -> None:  # noqa: B027 - most keep nothing
        """Keeps in the study's folder what the plans of its groups have returned, by the groups' names."""


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
