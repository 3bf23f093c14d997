"""The tables of a comparison, as cells of text: what is told at the chosen rates, between methods, and at all rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hiso_pl.report import choice
from hiso_pl.report.outcome import at
from hiso_pl.report.run_data import COSTS, LOSS
from hiso_pl.report.statistics import EXACT, LEVEL, SAMPLES

if TYPE_CHECKING:
    from hiso_pl.report.comparison import Comparison

NAMES = {"rounds": "rounds", "forwards": "forward passes", "seconds": "seconds"}
NAMES |= {"paper_kb": "KB (paper)", "protocol_kb": "KB (protocol)", "simulated_s": "simulated seconds"}
"""What costs are called."""
INTERVALS = (
    f"Intervals of {100 * LEVEL:.0f} % are percentiles of means of seeds drawn with replacement: of all draws up to "
    f"{EXACT} seeds, of {SAMPLES} beyond."
)


class Column(NamedTuple):
    """A column of numbers: its name in the data frames, its head, how its numbers are spelt, and what it belongs to."""

    name: str
    head: str
    form: str
    part: str = ""


class Table(NamedTuple):
    """A table: what it is, the heads of its columns, its rows, and how many of the columns are words."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int


def tables(comparison: Comparison, narrow: bool = False) -> list[Table]:
    """All tables that have rows, that of the chosen rates first; narrow ones are of one target, or of the end, each."""
    made = []
    for shown, table in ((columns(comparison), told), (pair_columns(comparison), between)):
        parts = [[column for column in shown if column.part == part] for part in dict.fromkeys(c.part for c in shown)]
        made += [table(comparison, part) for part in (parts if narrow else [shown])]
    return [table for table in (*made, every_rate(comparison)) if table.rows]


def columns(comparison: Comparison) -> list[Column]:
    """What is told of a chosen rate; what no run has is left out, except the rounds to a target."""
    aim, summary = comparison.aim, comparison.summary
    found = list[Column]()
    for target in aim.targets:
        to = f"{target:g}"
        found += [Column(at(cost, target), f"{NAMES[cost]} to {to}", cost, to) for cost in COSTS]
        found.append(Column(at("short", target), f"ended short of {to}", "count", to))
    found += [Column(which, f"{which} {aim.metric}", "metric") for which in ("best", "last")]
    found += [Column("test", f"test/{aim.name}", "metric")]
    always = {at("rounds", target) for target in aim.targets}
    return [
        column
        for column in found
        if column.name in always
        or (
            column.name in summary
            and (summary[column.name if column.form == "count" else f"{column.name} seeds"].any())
        )
    ]


def told(comparison: Comparison, shown: Sequence[Column]) -> Table:
    """A row for each group at its chosen rate: means over seeds."""
    settings = any(group.setting for group in comparison.groups)
    rows = []
    for row in comparison.summary.to_dict("records"):
        seeds = f"{row['complete']} of {row['runs']}" if row["complete"] < row["runs"] else str(row["runs"])
        words = [row["method"], *([row["setting"]] if settings else []), _number(row["lr"], "rate"), seeds]
        rows.append(words + [_cell(row, column) for column in shown])
    head = ["method", *(["setting"] if settings else []), "lr", "seeds", *(c.head for c in shown)]
    rule = f"The learning rate (lr) of each is that with {choice.rule(comparison.aim)}, on validation."
    caption = f"Means over seeds, with their intervals. {rule}"
    return Table(caption, head, rows, 2 + settings)


def pair_columns(comparison: Comparison) -> list[Column]:
    """What is told of two groups: ratios of what targets cost, differences of metrics; only what some two have."""
    aim, frame = comparison.aim, comparison.paired
    found = [
        Column(at(cost, t), f"ratio of {NAMES[cost]} to {t:g}", "ratio", f"{t:g}")
        for t in aim.targets
        for cost in COSTS
    ]
    found += [Column("last", f"difference of last {aim.metric}", "difference")]
    found += [Column("test", f"difference of test/{aim.name}", "difference")]
    known = set(frame["column"][frame["seeds"] > 0])
    return [column for column in found if column.name in known]


def between(comparison: Comparison, shown: Sequence[Column]) -> Table:
    """A row for each two groups of one setting that have seeds in common: one over, or less, the other."""
    frame, settings = comparison.paired, any(group.setting for group in comparison.groups)
    known = frame[(frame["seeds"] > 0) & frame["column"].isin([column.name for column in shown])]
    rows = []
    for (setting, one, other), part in known.groupby(["setting", "one", "other"], sort=False):
        by_column = {row["column"]: row for row in part.to_dict("records")}
        names = [str(name).removesuffix(f", {setting}") if setting else str(name) for name in (one, other)]
        seeds = max(row["seeds"] for row in by_column.values())
        row = [*([str(setting)] if settings else []), *names, str(seeds)]
        rows.append(row + [_between(by_column.get(column.name), column.form, seeds) for column in shown])
    head = [*(["setting"] if settings else []), "one", "other", "common seeds", *(column.head for column in shown)]
    caption = "One method beside another on the same seeds: one over the other, or one less the other."
    return Table(caption, head, rows, 2 + settings)


def every_rate(comparison: Comparison) -> Table:
    """A row for each learning rate, with what has chosen among them; the test has not, and is not told."""
    aim, grid = comparison.aim, comparison.grid
    settings = any(group.setting for group in comparison.groups)
    shown = [Column("best", f"best {aim.metric}", "metric"), Column("last", f"last {aim.metric}", "metric")]
    shown += [Column(at("rounds", target), f"rounds to {target:g}", "rounds") for target in aim.targets]
    shown += [Column("loss", f"last {LOSS}", "metric")] if aim.metric != LOSS else []
    rows = []
    for (method, setting, lr), part in grid.groupby(["method", "setting", "lr"], sort=False, dropna=False):
        done = part[part["complete"]]
        seeds = f"{len(done)} of {len(part)}" if len(done) < len(part) else str(len(part))
        rate = _number(float(str(lr)), "rate") + (" (chosen)" if part["chosen"].any() else "")
        row = [str(method), *([str(setting)] if settings else []), rate, seeds, str(int(part["diverged"].sum()))]
        for column in shown:
            found = (done if len(done) else part)[column.name].dropna()
            some = f", {len(found)} of {len(part)}" if 0 < len(found) < len(part) else ""
            row.append(_number(float(found.mean()), column.form) + some if len(found) else "none")
        rows.append(row)
    head = [
        "method",
        *(["setting"] if settings else []),
        "lr",
        "seeds",
        "diverged",
        *(c.head for c in shown),
    ]
    return Table(
        "All learning rates: means over complete runs; where none is, over all as far as they got.",
        head,
        rows,
        2 + settings,
    )


def _cell(row: Mapping[Any, Any], column: Column) -> str:
    """A mean with its interval, and of how many runs it is where that is not all."""
    if column.form == "count":
        return str(int(row[column.name]))
    seeds, of = int(row[f"{column.name} seeds"]), int(row["complete"] or row["runs"])
    if not seeds:
        return "not reached" if "@" in column.name else "none"
    text = _with_interval(row, column.name, column.form)
    return text if seeds == of else f"{text}, {seeds} of {of}"


def _between(row: Mapping[Any, Any] | None, kind: str, most: int) -> str:
    if row is None or math.isnan(row[kind]):
        return "none"
    text = _with_interval(row, kind, kind)
    return text if row["seeds"] == most else f"{text}, {row['seeds']} of {most}"


def _with_interval(row: Mapping[Any, Any], name: str, form: str) -> str:
    mean, low, high = (row[f"{name}{end}"] for end in ("", " low", " high"))
    text, *ends = (_number(value, form) for value in (mean, low, high))
    return text if math.isnan(low) or ends[0] == ends[1] else f"{text} ({ends[0]} to {ends[1]})"


def _number(value: float, form: str) -> str:
    """A number as it is read: whole where it counts, of a few digits where it measures."""
    if math.isnan(value):
        return "unknown" if form == "rate" else "none"
    if form == "rate":
        return f"{value:g}"
    if form == "difference":
        value = round(value, 12) + 0.0  # what is left where means of equal numbers are subtracted
        return f"{value:+.4f}" if 1e-3 <= abs(value) < 100 or value == 0 else f"{value:+.3g}"
    if form == "ratio":
        return f"{value:.2f}" if 0.1 <= value < 100 else f"{value:.3g}"
    if form == "metric":
        return f"{value:.4f}" if 1e-3 <= abs(value) < 100 or value == 0 else f"{value:.4g}"
    if abs(value) >= 1e7:
        return f"{value:.3g}"
    if form in ("rounds", "forwards"):
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 1 or value == 0 else f"{value:.2g}"
