"""Runs compared by one rule: rates chosen, means over seeds, differences between methods, and what must be said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from hiso_pl.report.group import Group as Group
from hiso_pl.report.group import Rows, grouped
from hiso_pl.report.notes import notes_on
from hiso_pl.report.outcome import at, outcome
from hiso_pl.report.run_data import BY, COSTS, METRICS, Aim, RunData
from hiso_pl.report.statistics import interval, pair

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs compared.

    Attributes:
        aim: What they are judged by.
        groups: Methods under settings, in the order in which the runs came.
        results: A row for each run at the chosen rates: ``label``, and what :func:`~hiso_pl.report.outcome.outcome`
            says of it: ``method``, ``setting``, ``lr``, ``seed``, ``complete``, ``diverged``, ``first``, ``best``,
            ``last``, ``loss``, ``test``; what it took as a whole (``rounds``, ``forwards``, ``seconds``,
            ``paper_kb``, ``protocol_kb``), and to each target t (``rounds@t`` and so on); ``short@t``. NaN is what is
            not known or not reached.
        grid: The same at all rates, with ``chosen``.
        summary: A row for each group with runs to tell: ``label``, ``method``, ``setting``, ``lr``, ``runs`` at that
            rate and how many are ``complete`` and ``diverged``; for each number c of the results ``c`` (the mean),
            ``c low`` and ``c high`` (its interval over seeds) and ``c seeds`` (how many have one: of ``rounds@t``, how
            many reached t); ``short@t``, a number of runs.
        paired: A row for each two groups of a setting and column: ``setting``, ``one``, ``other`` (labels), ``column``,
            ``difference`` (one less other) and ``ratio`` (one over other), each with ``low`` and ``high``
            (``difference low`` ...), ``seeds`` in common with a value of both, and ``missed`` ones without.
        notes: What a reader must be told.
    """

    aim: Aim
    groups: tuple[Group, ...]
    results: pd.DataFrame
    grid: pd.DataFrame
    summary: pd.DataFrame
    paired: pd.DataFrame
    notes: tuple[str, ...]


def measured(targets: Sequence[float]) -> list[str]:
    """The numbers of a row of results, in order."""
    return [
        "first",
        "best",
        "last",
        "loss",
        "test",
        *COSTS,
        *(at(cost, target) for target in targets for cost in COSTS),
    ]


def compare(runs: Sequence[RunData], aim: Aim) -> Comparison:
    """Compares runs, groups and settings in the order in which they come.

    Raises:
        ValueError: If there are none, no run has the metric, or a target is asked for and no run has its curve.
    """
    import pandas as pd

    _check(runs, aim)
    rows: Rows = {id(run): outcome(run, aim) for run in runs}
    groups = grouped(runs, rows, aim)
    table = []
    for group in groups:
        for members in group.rates.values():
            told = bool(group.told) and group.told[0] in members
            table += [
                {"label": group.label, **rows[id(run)], "chosen": told, "folder": str(run.folder)} for run in members
            ]
    grid = pd.DataFrame(table)
    grid["seed"] = grid["seed"].astype("Int64")
    results = grid[grid["chosen"]].drop(columns=["chosen"]).reset_index(drop=True)
    columns = measured(aim.targets)
    return Comparison(
        aim,
        tuple(groups),
        results,
        grid,
        pd.DataFrame([_summary(group, rows, columns, aim) for group in groups if group.told]),
        _paired(groups, rows, columns),
        tuple(notes_on(groups, rows, aim)),
    )


def aim_of(
    runs: Sequence[RunData], metric: str | None = None, by: str | None = None, targets: Sequence[float] = ()
) -> Aim:
    """What runs are judged by: the metric asked for, or the first of the usual ones that all of them have.

    Raises:
        ValueError: If they have none in common, or an aim cannot be.
    """
    having = [run.metrics for run in runs if run.metrics]
    common = sorted(frozenset.intersection(*having)) if having else []
    if not common:
        raise ValueError(
            "the runs have no metric of validation in common: report those that do, or give another --metric"
        )
    usual = next((name for name in METRICS if name in common), common[0])
    return Aim(usual if metric is None else metric, BY[0] if by is None else by, tuple(targets))


def _check(runs: Sequence[RunData], aim: Aim) -> None:
    if not runs:
        raise ValueError("there are no runs to compare")
    having = [run for run in runs if aim.metric in run.metrics]
    if not having:
        known = sorted({name for run in runs for name in run.metrics})
        raise ValueError(f"metric={aim.metric} must be one of {', '.join(known) or 'those of runs that have any'}")
    if aim.targets and not any(aim.metric in run.curve for run in runs):
        raise ValueError(
            f"targets={list(aim.targets)} need curves of {aim.metric}, and none of the runs has one: "
            "TensorBoard's or CSV's logger makes them (trainer.logger)"
        )


def _summary(group: Group, rows: Rows, columns: Sequence[str], aim: Aim) -> dict[str, Any]:
    told = [rows[id(run)] for run in group.told]
    members = group.rates[group.chosen]
    row: dict[str, Any] = {
        "label": group.label,
        "method": group.method,
        "setting": group.setting,
        "lr": math.nan if group.chosen is None else group.chosen,
        "runs": len(members),
        "complete": sum(run.complete for run in members),
        "diverged": sum(found["diverged"] for found in told),
    }
    for column in columns:
        found = interval([row[column] for row in told])
        row |= {column: found.mean, f"{column} low": found.low, f"{column} high": found.high}
        row[f"{column} seeds"] = found.seeds
    for target in aim.targets:
        row[at("short", target)] = sum(found[at("short", target)] for found in told)
    return row


def _paired(groups: Sequence[Group], rows: Rows, columns: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    made = []
    for one, other in combinations(groups, 2):
        if one.setting != other.setting or not one.told or not other.told:
            continue
        by_seed = [_seeds(group, rows) for group in (one, other)]
        common = [seed for seed in by_seed[0] if seed in by_seed[1]]
        for column in columns:
            values = [[found[seed][column] for seed in common] for found in by_seed]
            found = pair(*values)
            row: dict[str, Any] = {"setting": one.setting, "one": one.label, "other": other.label, "column": column}
            for name, part in (("difference", found.difference), ("ratio", found.ratio)):
                row |= {name: part.mean, f"{name} low": part.low, f"{name} high": part.high}
            made.append({**row, "seeds": found.difference.seeds, "missed": found.missed})
    names = ("difference", "ratio")
    columns = ["setting", "one", "other", "column", *(f"{n}{e}" for n in names for e in ("", " low", " high"))]
    return pd.DataFrame(made, columns=[*columns, "seeds", "missed"])


def _seeds(group: Group, rows: Rows) -> dict[int, Mapping[str, Any]]:
    """What a group's runs have come to by seed; of two runs of one seed the first."""
    found: dict[int, Mapping[str, Any]] = {}
    for run in group.told:
        if run.seed is not None:
            found.setdefault(run.seed, rows[id(run)])
    return found
