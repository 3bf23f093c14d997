"""The tables of a study, for people and as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

from hiso_pl.study.choice import Grid, Row, best, edge, mean, values
from hiso_pl.study.runs import LOSS, Aim

WORDS = {
    "rounds": "most seeds at the target, then fewest rounds to it, then the lowest final loss",
    "loss": f"the lowest final {LOSS}",
}


def report(grids: Sequence[Grid], aim: Aim) -> tuple[str, dict[str, Any]]:
    """The tables as Markdown, and all that they say as plain values.

    A chosen rate is told with its test, which has chosen nothing; the grids are told with what has.
    """
    chosen = [row for grid in grids if (row := best(grid, aim)) is not None]
    rows = [row for grid in grids for row in grid]
    notes = _notes(grids, chosen, aim)
    to: dict[str, tuple[str, str]] = {}
    if aim.target is not None:
        names = {"rounds": ("rounds", ".0f"), "KB (paper)": ("kb_to", ".1f")}
        names |= {"KB (protocol)": ("protocol_kb_to", ".1f"), "seconds": ("seconds_to", ".1f")}
        to = {f"{name} to {aim.target:g}": column for name, column in names.items()}
        to |= {f"ended short of {aim.target:g}": ("fell_back", "d")}
    last = {f"last {aim.metric}": ("last", ".4f")}
    test = {f"test/{aim.metric.rpartition('/')[2]}": ("test", ".4f")}
    weighed = {f"last {LOSS}": ("loss", ".4g"), "diverged": ("diverged", "d"), "KB (paper)": ("kb", ".1f")}
    text = [
        "Mean over seeds (range). The learning rate of each grid with "
        f"{WORDS.get(aim.by, f'the best mean of the {aim.by} {aim.metric}')}, on validation:",
        table(chosen, chosen, to | last | test),
        "\n".join(ratios(chosen)),
        "The grids:",
        table(rows, chosen, {f"best {aim.metric}": ("best", ".4f")} | last | to | weighed),
        *notes,
    ]
    runs = [asdict(outcome) | {"chosen": row in chosen} for row in rows for outcome in row]
    return "\n\n".join(filter(None, text)) + "\n", {**asdict(aim), "runs": runs, "notes": notes}


def table(rows: Sequence[Row], chosen: Sequence[Row], columns: Mapping[str, tuple[str, str]]) -> str:
    """A line for each row, with its method, value, rate and seeds before the columns: names and formats of values."""
    settings = [row[0].setting for row in rows]
    keys = " / ".join(sorted({setting.key for setting in settings if setting.key}))
    lines = [[*(["method"] if any(s.method for s in settings) else []), *([keys] if keys else [])]]
    lines[0] += ["learning rate", "seeds", *columns]
    lines.append(["---"] * len(lines[0]))
    for row, setting in zip(rows, settings, strict=True):
        rate, done = f"{setting.lr:g}", sum(values(row, "complete"))
        cells = [text for text, head in ((setting.method, "method"), (setting.value, keys)) if head in lines[0]]
        cells.append(f"**{rate}** (best)" if row in chosen else rate)
        cells.append(str(done) if done == len(row) else f"{done} of {len(row)}")
        lines.append(cells + [spread(values(row, name), form, done) for name, form in columns.values()])
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def spread(found: Sequence[float], form: str, of: int) -> str:
    """Mean with the range over seeds, and how many there are if it is not all of them; of what is counted the sum."""
    if form == "d":
        return str(sum(found))
    if not found:
        return "none"
    low, high, text = (format(value, form) for value in (min(found), max(found), mean(found)))
    text += f" ({low} to {high})" if low != high else ""
    return text if len(found) == of else f"{text}, {len(found)} of {of}"


def ratios(chosen: Sequence[Row]) -> list[str]:
    """For every two methods with the same value, the rounds of the one as a part of the other's, on the same seeds."""
    lines = []
    for one, other in combinations(chosen, 2):
        first, second = ({run.setting.seed: run.rounds for run in row if run.rounds} for row in (one, other))
        pairs = [(first[seed], second[seed]) for seed in first if seed in second]
        if pairs and one[0].setting.group[1:] == other[0].setting.group[1:]:
            ratio = mean([a for a, _ in pairs]) / mean([b for _, b in pairs])
            each = ", ".join(f"{a / b:.2f}" for a, b in pairs)
            names = one[0].setting.label, other[0].setting.label
            lines.append(f"- {names[0]} needs {ratio:.2f} of the rounds of {names[1]} (by seed: {each}).")
    return lines


def _notes(grids: Sequence[Grid], chosen: Sequence[Row], aim: Aim) -> list[str]:
    notes = []
    for grid in grids:
        where = f" with {label}" if (label := grid[0][0].setting.label) else ""
        row = next((row for row in grid if row in chosen), None)
        if row is None:
            notes.append(f"Warning: no learning rate{where} can be chosen: none has a run that counts.")
        elif end := edge(row, grid):
            rate = f"{row[0].setting.lr:g}"
            notes.append(f"Warning: the best learning rate{where}, {rate}, is the {end} of its grid: try beyond it.")
    if len(grids) > 1 and (first := best(chosen, aim)):
        notes.append(f"Best of all: {first[0].setting.label} with learning rate {first[0].setting.lr:g}.")
    outcomes = [outcome for grid in grids for row in grid for outcome in row]
    if unfinished := [outcome.setting.folder for outcome in outcomes if not outcome.complete]:
        notes.append(f"Not complete: {', '.join(unfinished)}.")
    starts = {(o.setting.seed, o.setting.group[1:], round(o.first, 6)) for o in outcomes if o.first is not None}
    apart = Counter((seed, value) for seed, value, _ in starts)
    for seed in sorted({seed for (seed, _), number in apart.items() if number > 1}):
        notes.append(f"Warning: the runs of seed {seed} did not start from the same model, or were measured apart.")
    return notes
