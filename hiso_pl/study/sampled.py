"""Learning rates that Optuna proposes, from what the runs before have come to.

Its sampler is the tree-structured Parzen estimator with the study's first seed, its pruner the rule of the median at
rungs. What it proposes depends on the runs' folders alone; the storage is written from them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hiso_pl.report.choice import Row, best
from hiso_pl.report.outcome import at
from hiso_pl.report.run_data import Aim
from hiso_pl.study.file import Study
from hiso_pl.study.grid import Group
from hiso_pl.study.way import Plan, Want, Way, check_count, check_share, rungs

STORAGE = "optuna.log"
PRUNED_AFTER = 3
"""Trials that go through before any is pruned."""


@dataclass(frozen=True)
class Sampled(Way):
    """Optuna proposes rates between a method's lowest and highest, on a logarithmic scale, for the first seed.

    The best then runs with all seeds. Rates are rounded to three digits.

    Args:
        trials: How many rates are tried.
        span: How many times a method's rate the bounds lie below and above it, where it has but one.
        first: Part of the rounds at the first rung, where trials worse than the median of those before are given up;
            each further one has twice as many.
    """

    trials: int = 10
    span: float = 10.0
    first: float = 0.25

    def __post_init__(self) -> None:
        """Checks the options, and that Optuna is there."""
        check_count("trials", self.trials, 1)
        check_share("first", self.first)
        if type(self.span) not in (int, float) or not 1.0 < self.span < math.inf:
            raise ValueError(f"span={self.span} must be above 1")
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)

    def plan(self, group: Group, study: Study) -> Plan:
        """The plan of a group; returns Optuna's study."""
        import optuna

        seed, rates = study.seeds[0], group.lrs
        low, high = (rates[0], rates[-1]) if len(rates) > 1 else (rates[0] / self.span, rates[0] * self.span)
        proposed = optuna.create_study(
            sampler=optuna.samplers.TPESampler(seed=seed), pruner=optuna.pruners.MedianPruner(PRUNED_AFTER)
        )
        ended: dict[float | None, Sequence[Row]] = {}
        aim: Aim | None = None
        for _ in range(self.trials):
            trial = proposed.ask()
            lr = float(f"{trial.suggest_float('lr', low, high, log=True):.3g}")
            trial.set_user_attr("lr", lr)
            for until in rungs(group, self.first, 0.5):
                found = yield [Want(lr, seed, until)]
                trial.report(cost(found.rows[0], found.aim), until)
                if trial.should_prune():
                    proposed.tell(trial, state=optuna.trial.TrialState.PRUNED)
                    break
            else:
                found = yield [Want(lr, seed)]
                aim, ended[lr] = found.aim, found.rows
                proposed.tell(trial, cost(found.rows[0], aim))
        if aim is not None and (chosen := best(ended, aim)) is not None:
            yield [Want(chosen, seed) for seed in study.seeds]
        return proposed

    def store(self, root: Path, returned: Mapping[str, Any]) -> None:
        """Writes Optuna's studies into the root, one for each group, for its own tools."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        part = root / f".{STORAGE}"
        part.unlink(missing_ok=True)
        storage = JournalStorage(JournalFileBackend(str(part)))
        for name, study in returned.items():
            kept = optuna.create_study(storage=storage, study_name=name, direction="minimize")
            kept.add_trials(study.get_trials(deepcopy=False))
        os.replace(part, root / STORAGE)


def cost(row: Row, aim: Aim) -> float:
    """What Optuna is to make small: the metric, the loss or the rounds; far beyond them where a run has none.

    A run that has not reached the target is told by how far it stays away, and stands behind all that have.
    """
    worst = 1e9
    if row["diverged"]:
        return worst
    name = {"rounds": at("rounds", aim.targets[0])}.get(aim.by, aim.by) if aim.targets else aim.by
    value = float(row[name])
    if aim.by == "rounds" and math.isnan(value):
        away = abs(aim.targets[0] - float(row["best"]))
        return worst if math.isnan(away) else worst * away / (1.0 + away)
    sign = 1.0 if aim.by in ("rounds", "loss") or aim.lower else -1.0
    return worst if math.isnan(value) else sign * value
