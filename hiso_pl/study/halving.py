"""Successive halving: every rate runs a part of the rounds with the first seed, and the better part of them goes on.

After Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization" (AISTATS 2016),
algorithm 1. A run that goes on does so from its checkpoint, under the schedules of the whole run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hiso_pl.report.choice import Row, best, place
from hiso_pl.study.file import Study
from hiso_pl.study.grid import Group
from hiso_pl.study.way import Plan, Want, Way, beyond, check_count, check_share, rungs


@dataclass(frozen=True)
class Halving(Way):
    """Rates are compared at rungs with the first seed; the best of those that end runs with all seeds.

    Args:
        first: Part of the rounds at the first rung; the next ones have 1 / keep times as many each.
        keep: Part of the rates that goes on from a rung, rounded up.
        extend: How many rates beyond the edge are tried in full, one after the other, where the best is at it.
        neighbours: Whether the rates beside the best run with all seeds too.
    """

    first: float = 0.25
    keep: float = 0.5
    extend: int = 0
    neighbours: bool = False

    def __post_init__(self) -> None:
        """Checks the options."""
        check_share("first", self.first)
        check_share("keep", self.keep)
        check_count("extend", self.extend)
        if not isinstance(self.neighbours, bool):
            raise ValueError(f"neighbours={self.neighbours} must be true or false")

    def plan(self, group: Group, study: Study) -> Plan:
        """The plan of a group."""
        alive, seed = [*group.lrs], study.seeds[0]
        for until in rungs(group, self.first, self.keep):
            if len(alive) == 1:
                break
            found = yield [Want(lr, seed, until) for lr in alive]
            places = {lr: place([row], found.aim) for lr, row in zip(alive, found.rows, strict=True)}
            alive = sorted(sorted(alive, key=lambda lr: (places[lr], lr))[: math.ceil(len(alive) * self.keep)])
        found = yield [Want(lr, seed) for lr in alive]
        ended: dict[float | None, Sequence[Row]] = {lr: [row] for lr, row in zip(alive, found.rows, strict=True)}
        rates = [*group.lrs]
        for _ in range(self.extend):
            if (lr := beyond(best(ended, found.aim), rates)) is None:
                break
            found = yield [Want(lr, seed)]
            rates, ended[lr] = sorted([*rates, lr]), found.rows
        if (chosen := best(ended, found.aim)) is not None:
            at = rates.index(chosen)
            told = rates[max(at - 1, 0) : at + 2] if self.neighbours else [chosen]
            yield [Want(lr, seed) for seed in study.seeds for lr in told]
