"""Runs as methods under settings, each with the learning rate that the rule chooses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hiso_pl.report import choice
from hiso_pl.report.run_data import Aim, RunData

Rows = Mapping[int, Mapping[str, Any]]
"""What runs have come to, by :func:`~hiso_pl.report.outcome.outcome`, under the ``id`` of each."""


@dataclass(frozen=True, eq=False)
class Group:
    """One method under one setting.

    Attributes:
        label: Method and setting in words.
        method: The method.
        setting: What else is varied; empty where nothing is.
        rates: Runs by learning rate, both ascending, and then by seed; an unknown rate is None.
        chosen: The rate chosen by the rule, on validation; None if none can be, or it is not known.
        edge: Which end of the rates the chosen one is: ``lowest``, ``highest`` or nothing.
        told: The runs that are told: those at the chosen rate, only the complete ones if there are any.
    """

    label: str
    method: str
    setting: str
    rates: Mapping[float | None, tuple[RunData, ...]]
    chosen: float | None
    edge: str
    told: tuple[RunData, ...]


def grouped(runs: Sequence[RunData], rows: Rows, aim: Aim) -> list[Group]:
    """Groups in the order in which the runs come."""
    found: dict[tuple[str, str], dict[float | None, list[RunData]]] = {}
    for run in runs:
        found.setdefault((run.method, run.setting), {}).setdefault(run.lr, []).append(run)
    several = len({method for method, _ in found}) > 1
    groups = []
    for (method, setting), rates in found.items():
        ordered = {rate: _by_seed(rates[rate]) for rate in sorted(rates, key=lambda r: math.inf if r is None else r)}
        label = ", ".join(filter(None, (method if several or not setting else "", setting)))
        groups.append(_group(label, method, setting, ordered, rows, aim))
    return groups


def _by_seed(runs: Sequence[RunData]) -> tuple[RunData, ...]:
    return tuple(sorted(runs, key=lambda run: math.inf if run.seed is None else run.seed))


def _group(
    label: str,
    method: str,
    setting: str,
    rates: Mapping[float | None, tuple[RunData, ...]],
    rows: Rows,
    aim: Aim,
) -> Group:
    places = {rate: [rows[id(run)] for run in runs] for rate, runs in rates.items()}
    if any(run.complete for runs in rates.values() for run in runs):
        chosen = choice.best(places, aim)
        found = chosen in rates and choice.counts(choice.place(places[chosen], aim))
    else:  # of what is under way a single rate can be told all the same
        chosen, found = next(iter(rates)), len(rates) == 1
    if not found:
        return Group(label, method, setting, rates, None, "", ())
    complete = tuple(run for run in rates[chosen] if run.complete)
    return Group(label, method, setting, rates, chosen, choice.edge(chosen, list(rates)), complete or rates[chosen])
