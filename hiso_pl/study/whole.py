"""The plain way of finding rates: all of them are run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hiso_pl.report.choice import Row, best
from hiso_pl.study.file import Study
from hiso_pl.study.grid import Group
from hiso_pl.study.way import Plan, Want, Way, beyond, check_count


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
