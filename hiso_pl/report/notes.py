"""What a reader of a comparison must be told, in sentences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from hiso_pl.errors import one_line
from hiso_pl.report import choice
from hiso_pl.report.group import Group, Rows
from hiso_pl.report.labels import differing, matters
from hiso_pl.report.outcome import at
from hiso_pl.report.run_data import Aim, RunData
from hiso_pl.run.forwards import BACKWARD, by_gradients

MOST = 6
"""Things of a kind that are named."""
FACTS = ("clients", "cohort", "parameters")
"""What the summary of a run says of its data and model."""
OF_THE_PROBLEM = ("data.", "model.network.", "trainer.limit_")
VERSIONS = ("hiso_pl", "torch", "stream", "numerics")
"""What computes the same numbers only where it is the same."""


def notes_on(groups: Sequence[Group], rows: Rows, aim: Aim) -> Iterator[str]:
    """All that is to be said of groups of runs, and of what they have come to."""
    for group in groups:
        yield from _on_rates(group, rows, aim)
    runs = [run for group in groups for found in group.rates.values() for run in found]
    if halted := sum(run.halted for run in runs):
        yield f"Given up before the last round, as the study's search for rates has it: {halted} of {len(runs)} runs."
    if unfinished := [str(run.folder) for run in runs if not (run.complete or run.halted)]:
        yield f"Not complete, and left out where there are complete runs: {some(unfinished)}."
    for words, folders in _by_words(runs).items():
        yield f"{some(folders)}: {words}."
    told = [group for group in groups if group.told]
    yield from _on_attacks(told)
    yield from _on_seeds(told)
    yield from _on_targets(told, rows, aim)
    for setting in dict.fromkeys(group.setting for group in told):
        yield from _on_problem(setting, [group for group in told if group.setting == setting], rows, aim)


def some(names: Sequence[str]) -> str:
    """Names in a row, the first few of many; they may have commas of their own."""
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return "; ".join(names[:MOST]) + more


def _by_words(runs: Sequence[RunData]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for run in runs:
        for words in run.notes:
            found.setdefault(words, []).append(str(run.folder))
    return found


def _on_rates(group: Group, rows: Rows, aim: Aim) -> Iterator[str]:
    runs = [run for found in group.rates.values() for run in found]
    if not group.told:
        complete = [run for run in runs if run.complete]
        every = bool(complete) and all(rows[id(run)]["diverged"] for run in complete)
        why = "it diverged at every rate" if every else "none has a run that counts" if complete else "none is complete"
        yield f"Warning: no learning rate of {group.label} can be chosen: {why}."
    elif group.edge:
        yield (
            f"Warning: the best learning rate of {group.label}, {group.chosen:g}, is the {group.edge} of its grid: "
            "try beyond it."
        )
    if group.told and not group.told[0].complete:
        yield f"Warning: no run of {group.label} is complete: it is told as far as it got."
    for rate, members in group.rates.items():
        counted = Counter(run.seed for run in members if run.seed is not None)
        if twice := sorted(seed for seed, number in counted.items() if number > 1):
            at_rate = "" if rate is None else f" at {rate:g}"
            yield f"Warning: {group.label} has several runs{at_rate} of seed {some([*map(str, twice)])}, each counted."


def _on_attacks(told: Sequence[Group]) -> Iterator[str]:
    found: dict[str, dict[str, None]] = {}
    for group in told:
        for attack in [run.summary["attack"] for run in group.told if isinstance(run.summary.get("attack"), dict)]:
            what, clients = (one_line(attack.get(key), 80) for key in ("name", "hostile"))
            found.setdefault(f"{what} by {clients} clients", {})[group.label] = None
    for words, labels in found.items():
        yield f"Attacked in simulation, {words}: {some([*labels])}."


def _on_seeds(told: Sequence[Group]) -> Iterator[str]:
    numbers = {group.label: len({run.seed for run in group.told}) for group in told}
    if single := [label for label, number in numbers.items() if number == 1]:
        yield f"One seed only, so no interval, and no telling a difference from chance: {some(single)}."
    for few in (2, 3):
        if found := [label for label, number in numbers.items() if number == few]:
            yield (
                f"Of {few} seeds an interval is their range, which holds the median of all seeds in "
                f"{100 * (1 - 2 ** (1 - few)):.0f} of 100 cases, not in 95: {some(found)}."
            )


def _on_targets(told: Sequence[Group], rows: Rows, aim: Aim) -> Iterator[str]:
    runs = [run for group in told for run in group.told]
    for target in aim.targets:
        column = at("rounds", target)
        reached = {group.label: sum(not math.isnan(rows[id(run)][column]) for run in group.told) for group in told}
        if runs and not any(reached.values()):
            found = [rows[id(run)]["best"] for run in runs if not math.isnan(rows[id(run)]["best"])]
            best = f"; the best there is is {(min if aim.lower else max)(found):.4g}" if found else ""
            yield f"No run reaches {aim.metric} {target:g}{best}."
        part = [group.label for group in told if 0 < reached[group.label] < len(group.told)]
        if part:
            yield f"Not all runs reach {target:g}, and a mean of those that do flatters: {some(part)}."
        unknown = [
            str(run.folder)
            for run in runs
            if aim.metric not in run.curve and aim.met(rows[id(run)]["best"], target) and not rows[id(run)]["diverged"]
        ]
        if unknown:
            yield f"Reached {target:g}, but there is no curve that tells when, so they do not count: {some(unknown)}."


def _on_problem(setting: str, groups: Sequence[Group], rows: Rows, aim: Aim) -> Iterator[str]:
    """What groups under one setting do not have in common."""
    where = f"Under {setting}: " if setting else ""
    runs = [run for group in groups for run in group.told]
    for told in _apart(groups, _facts):
        yield f"Warning: {where}Not the same problem: {told}."
    for told in _apart(groups, _conditions):
        yield f"{where}Not computed alike, which seconds and last digits depend on: {told}."
    lengths = {
        group.label: sorted({run.rounds for run in group.told if not math.isnan(run.rounds)}) for group in groups
    }
    if len({rounds for found in lengths.values() for rounds in found}) > 1:
        told = "; ".join(f"{label} {', '.join(f'{rounds:g}' for rounds in found)}" for label, found in lengths.items())
        yield f"{where}Runs of different lengths, whose best and last values are not of the same rounds: {told}."
    starts = {(run.seed, round(first, 6)) for run in runs if not math.isnan(first := rows[id(run)]["first"])}
    apart = Counter(seed for seed, _ in starts if seed is not None)
    if seeds := sorted(seed for seed, number in apart.items() if number > 1):
        yield (
            f"Warning: {where}The runs of seed {some([*map(str, seeds)])} did not start from the same model, or were "
            "measured apart."
        )
    seeds_of = {group.label: {run.seed for run in group.told} for group in groups}
    if len(groups) > 1 and any(found != seeds_of[groups[0].label] for found in seeds_of.values()):
        yield f"{where}Not all have the same seeds; differences and ratios are of those that two have in common."
    if first := [group.label for group in groups if any(by_gradients(run.options) for run in group.told)]:
        yield f"{where}Forwards count a backward pass as {BACKWARD}: {some(first)}."
    best = choice.best({i: [rows[id(run)] for run in group.told] for i, group in enumerate(groups)}, aim)
    if len(groups) > 1 and best is not None:
        winner = groups[int(best)]
        rate = "" if winner.chosen is None else f" with learning rate {winner.chosen:g}"
        yield f"{where}Best of all, by {choice.rule(aim)}: {winner.label}{rate}."


def _apart(groups: Sequence[Group], said: Callable[[RunData], dict[str, str]]) -> Iterator[str]:
    """What runs say that is not the same of all, and which groups say what; a run that says nothing does not count."""
    told = [(group.label, found) for group in groups for run in group.told if (found := said(run))]
    for key in differing([found for _, found in told]):
        values: dict[str, dict[str, None]] = {}
        for label, found in told:
            values.setdefault(found.get(key, "absent"), {})[label] = None
        yield f"{key} is " + ", ".join(f"{value} of {some([*labels])}" for value, labels in values.items())


def _facts(run: RunData) -> dict[str, str]:
    """What a run says of its data and model."""
    found = {key: value for key, value in run.options.items() if key.startswith(OF_THE_PROBLEM) and matters(key)}
    return found | {name: str(run.summary[name]) for name in FACTS if found and name in run.summary}


def _conditions(run: RunData) -> dict[str, str]:
    """What a run says of how it was computed."""
    versions = run.summary.get("versions")
    found = {name: str(versions.get(name)) for name in VERSIONS} if isinstance(versions, dict) else {}
    return found | ({"ranks": str(run.summary["ranks"])} if found and "ranks" in run.summary else {})
