"""The tables of a page, as cells that know what they are sorted by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hiso_pl.report.outcome import at
from hiso_pl.report.run_data import COSTS

if TYPE_CHECKING:
    from hiso_pl.report.comparison import Comparison

NAMES = {"rounds": "rounds", "forwards": "forward passes", "seconds": "seconds"}
NAMES |= {"paper_kb": "KB (paper)", "protocol_kb": "KB (protocol)"}
FORMS = {"rounds": ",.0f", "forwards": ",.0f"}


class Cell(NamedTuple):
    """A cell: what is read, what stands smaller below it, and the number that it is sorted by if it is one."""

    text: str
    more: str = ""
    sort: float | str | None = None


class Table(NamedTuple):
    """A table: names of columns, and rows of cells."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def results(comparison: Comparison) -> list[Table]:
    """What the chosen rates come to: a table for each target, and one for the end."""
    aim = comparison.aim
    costs = [[(at(cost, target), NAMES[cost], FORMS.get(cost, ".1f")) for cost in COSTS] for target in aim.targets]
    ends = [("best", f"best {aim.metric}", ".4f"), ("last", f"last {aim.metric}", ".4f")]
    ends += [("test", f"test/{aim.name}", ".4f"), ("loss", "last val/loss", ".4g")]
    ends += [(cost, f"{NAMES[cost]} in all", FORMS.get(cost, ".1f")) for cost in COSTS]
    captions = [f"To {aim.metric} of {target:g}" for target in aim.targets]
    tables = [_told(comparison, *table) for table in zip([*captions, "At the end"], [*costs, ends], strict=True)]
    return [table for table in tables if table.rows]


def _told(comparison: Comparison, caption: str, columns: Sequence[tuple[str, str, str]]) -> Table:
    summary = comparison.summary
    shown = [column for column in columns if column[0] in summary and summary[f"{column[0]} seeds"].any()]
    edges = {group.label: group.edge for group in comparison.groups}
    rows = []
    for row in summary.to_dict("records"):
        edge = edges.get(row["label"])
        cells = [Cell(row["label"]), _number(row["lr"], "g", f"the {edge} tried" if edge else "")]
        known = row["runs"] - row["diverged"]
        more = f"{row['diverged']} diverged" if row["diverged"] else ""
        cells.append(Cell(str(row["runs"]), more, known))
        cells += [_mean(row, column, form) for column, _, form in shown]
        rows.append(cells)
    return Table(caption, ["method", "learning rate", "seeds", *(name for _, name, _ in shown)], rows if shown else [])


def _mean(row: Mapping[Any, Any], column: str, form: str) -> Cell:
    """A mean, its interval, and of how many seeds it is where that is not all."""
    seeds, runs = int(row[f"{column} seeds"]), int(row["runs"])
    if not seeds:
        return Cell("not reached" if "@" in column else "none", "", "")
    low, high = (row[f"{column} {end}"] for end in ("low", "high"))
    words = [f"{low:{form}} to {high:{form}}"] if math.isfinite(low) and math.isfinite(high) and low < high else []
    words += [f"{seeds} of {runs} seeds"] if seeds < runs else []
    return _number(row[column], form, "; ".join(words))


def _number(value: float, form: str, more: str = "") -> Cell:
    return Cell(format(value, form), more, value) if math.isfinite(value) else Cell("none", more, "")


def paired(comparison: Comparison) -> Table:
    """What one method takes, or comes to, beside another under the same setting."""
    aim, frame = comparison.aim, comparison.paired
    names = {at(cost, t): f"{NAMES[cost]} to {t:g}" for t in aim.targets for cost in ("rounds", "paper_kb", "forwards")}
    names |= {"best": f"best {aim.metric}", "last": f"last {aim.metric}", "test": f"test/{aim.name}"}
    rows = []
    for row in frame[frame["column"].isin(list(names)) & (frame["seeds"] > 0)].to_dict("records"):
        form = FORMS.get(row["column"].partition("@")[0], ".1f" if "@" in row["column"] else ".4f")
        told = [_between(row, part, form_of) for part, form_of in (("difference", "+" + form), ("ratio", ".3g"))]
        missed = f"{row['missed']} more without both" if row["missed"] else ""
        rows.append([*map(Cell, (row["one"], row["other"], names[row["column"]])), *told])
        rows[-1].append(Cell(str(row["seeds"]), missed, row["seeds"]))
    head = ["one", "other", "of", "one less the other", "one over the other", "common seeds"]
    return Table("Means over the seeds that both have, with intervals of 95 %", head, rows)


def _between(row: Mapping[Any, Any], part: str, form: str) -> Cell:
    low, high = row[f"{part} low"], row[f"{part} high"]
    return _number(row[part], form, f"{low:{form}} to {high:{form}}" if math.isfinite(low) else "")


def grid(comparison: Comparison) -> Table:
    """Every run."""
    aim = comparison.aim
    columns = [("best", f"best {aim.metric}", ".4f"), ("last", f"last {aim.metric}", ".4f")]
    columns += [("test", f"test/{aim.name}", ".4f"), ("loss", "last val/loss", ".4g")]
    columns += [(at("rounds", target), f"rounds to {target:g}", ",.0f") for target in aim.targets]
    rows = []
    for row in comparison.grid.to_dict("records"):
        state = [word for word in ("chosen", "diverged") if row[word]] + ([] if row["complete"] else ["not complete"])
        seed = row["seed"]
        cells = [Cell(row["label"]), _number(row["lr"], "g"), Cell(str(seed), "", seed) if seed == seed else Cell("none")]
        rows.append([*cells, Cell(", ".join(state)), *(_number(row[name], form) for name, _, form in columns)])
    return Table("", ["method", "learning rate", "seed", "", *(name for _, name, _ in columns)], rows)
