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
OTHER = ",.1f"


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
    """What the chosen rates come to: a table for each target, for the end, and for what whole runs took."""
    aim = comparison.aim
    costs = [[(at(cost, target), NAMES[cost], FORMS.get(cost, OTHER)) for cost in COSTS] for target in aim.targets]
    ends = [("best", f"best {aim.metric}", ".4f"), ("last", f"last {aim.metric}", ".4f")]
    ends += [("test", f"test/{aim.name}", ".4f")]
    ends += [("loss", "last val/loss", ".4g")] if aim.metric != "val/loss" else []
    whole = [(cost, NAMES[cost], FORMS.get(cost, OTHER)) for cost in COSTS]
    captions = [*(f"To {aim.metric} of {target:g}" for target in aim.targets), "At the end", "Whole runs"]
    tables = [_told(comparison, *table) for table in zip(captions, [*costs, ends, whole], strict=True)]
    return [table for table in tables if table.rows]


def _told(comparison: Comparison, caption: str, columns: Sequence[tuple[str, str, str]]) -> Table:
    summary = comparison.summary
    shown = [column for column in columns if column[0] in summary and summary[f"{column[0]} seeds"].any()]
    edges = {group.label: group.edge for group in comparison.groups}
    names, order = names_of(comparison)
    rows = []
    for row in sorted(summary.to_dict("records"), key=lambda row: order[row["setting"]]):
        edge = edges[row["label"]]
        cells = [*(Cell(row[name]) for name in names), _number(row["lr"], "g", f"the {edge} tried" if edge else "")]
        known = row["runs"] - row["diverged"]
        more = f"{row['diverged']} diverged" if row["diverged"] else ""
        cells.append(Cell(str(row["runs"]), more, known))
        cells += [_mean(row, column, form, column == shown[0][0]) for column, _, form in shown]
        rows.append(cells)
    return Table(caption, [*names, "learning rate", "seeds", *(name for _, name, _ in shown)], rows if shown else [])


def names_of(comparison: Comparison) -> tuple[list[str], dict[str, int]]:
    """The columns that name a group, and the place of each setting: the methods of one stand together."""
    settings = {setting: i for i, setting in enumerate(dict.fromkeys(group.setting for group in comparison.groups))}
    return [*(["setting"] if any(settings) else []), "method"], settings


def _mean(row: Mapping[Any, Any], column: str, form: str, counted: bool) -> Cell:
    """A mean, its interval, and of how many seeds it is where that is not all."""
    seeds, runs = int(row[f"{column} seeds"]), int(row["runs"])
    if not seeds:
        return Cell(_none(column), "", "")
    low, high = (row[f"{column} {end}"] for end in ("low", "high"))
    words = [f"{low:{form}} to {high:{form}}"] if math.isfinite(low) and math.isfinite(high) and low < high else []
    words += [f"{seeds} of {runs} seeds"] if seeds < runs and counted else []
    return _number(row[column], form, "; ".join(words))


def _number(value: float, form: str, more: str = "", none: str = "none") -> Cell:
    return Cell(format(value, form), more, value) if math.isfinite(value) else Cell(none, more, "")


def _none(column: str) -> str:
    return "not reached" if "@" in column else "none"


def paired(comparison: Comparison) -> Table:
    """What one method takes, or comes to, beside another under the same setting."""
    aim, frame = comparison.aim, comparison.paired
    names = {at(cost, t): f"{NAMES[cost]} to {t:g}" for t in aim.targets for cost in ("rounds", "paper_kb", "forwards")}
    names |= {"best": f"best {aim.metric}", "last": f"last {aim.metric}", "test": f"test/{aim.name}"}
    rows = []
    for row in frame[frame["column"].isin(list(names)) & (frame["seeds"] > 0)].to_dict("records"):
        form = FORMS.get(row["column"].partition("@")[0], OTHER if "@" in row["column"] else ".4f")
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
    import pandas as pd

    aim = comparison.aim
    columns = [("best", f"best {aim.metric}", ".4f"), ("last", f"last {aim.metric}", ".4f")]
    columns += [("test", f"test/{aim.name}", ".4f"), ("loss", "last val/loss", ".4g")]
    columns += [(at("rounds", target), f"rounds to {target:g}", ",.0f") for target in aim.targets]
    rows, (names, order) = [], names_of(comparison)
    for row in sorted(comparison.grid.to_dict("records"), key=lambda row: order[row["setting"]]):
        state = [word for word in ("chosen", "diverged") if row[word]] + ([] if row["complete"] else ["not complete"])
        cells = [*(Cell(row[name]) for name in names), _number(row["lr"], "g")]
        seed = row["seed"]
        cells.append(Cell("unknown") if pd.isna(seed) else Cell(str(seed), "", int(seed)))
        rows.append(
            [*cells, Cell(", ".join(state)), *(_number(row[name], form, none=_none(name)) for name, _, form in columns)]
        )
    return Table("", [*names, "learning rate", "seed", "state", *(name for _, name, _ in columns)], rows)
