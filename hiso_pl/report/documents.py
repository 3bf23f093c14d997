"""A comparison as documents: for readers, for papers, for spreadsheets and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hiso_pl.report.markup import latex, markdown, markdown_text, terminal
from hiso_pl.report.tables import INTERVALS, tables
from hiso_pl.run.folder import json_text

if TYPE_CHECKING:
    import pandas as pd

    from hiso_pl.report.comparison import Comparison

FORMATS = ("markdown", "latex", "csv", "json")


def document(comparison: Comparison, form: str) -> str:
    """A comparison in one of :data:`FORMATS`."""
    return {"markdown": _markdown, "latex": _latex, "csv": _csv, "json": _json}[form](comparison)


def for_terminal(comparison: Comparison, width: int) -> str:
    """The same for a terminal: its tables, and what a reader must be told."""
    return terminal(tables(comparison, narrow=True), width) + "".join(f"- {note}\n" for note in comparison.notes)


def runs_csv(comparison: Comparison) -> str:
    """A row for each run, as CSV."""
    return comparison.grid.to_csv(index=False, lineterminator="\n")


def _markdown(comparison: Comparison) -> str:
    parts = [f"{markdown_text(table.caption)}\n\n{markdown(table)}" for table in tables(comparison)]
    notes = [INTERVALS, *comparison.notes]
    return "\n\n".join([*parts, "\n".join(f"- {markdown_text(note)}" for note in notes)]) + "\n"


def _latex(comparison: Comparison) -> str:
    head = r"% \usepackage{booktabs}"
    made = [latex(table, f"report-{i}") for i, table in enumerate(tables(comparison, narrow=True), start=1)]
    return "\n\n".join([head, *made]) + "\n"


def _csv(comparison: Comparison) -> str:
    return comparison.summary.to_csv(index=False, lineterminator="\n")


def _json(comparison: Comparison) -> str:
    aim = comparison.aim
    plain: dict[str, Any] = {
        "aim": {"metric": aim.metric, "by": aim.by, "targets": list(aim.targets)},
        "groups": [
            {
                "label": group.label,
                "method": group.method,
                "setting": group.setting,
                "rates": list(group.rates),
                "chosen": group.chosen,
                "edge": group.edge,
            }
            for group in comparison.groups
        ],
        "summary": _records(comparison.summary),
        "paired": _records(comparison.paired),
        "runs": _records(comparison.grid),
        "notes": list(comparison.notes),
    }
    return json_text(plain, 1) + "\n"


def _records(frame: pd.DataFrame) -> list[Mapping[str, Any]]:
    """Rows of plain values; what is not known is null."""
    plain = frame.astype(object).where(frame.notna(), None)
    return [
        {str(key): value.item() if hasattr(value, "item") else value for key, value in row.items()}
        for row in plain.to_dict("records")
    ]
