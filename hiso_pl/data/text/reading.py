"""What a task reads in rows: texts, labels or answers; and what is done with a row that has a blank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiso_pl.data.limits import Row
from hiso_pl.data.tasks import ClassificationTask, GenerationTask, TextTask
from hiso_pl.data.text_metrics import Spans
from hiso_pl.data.values import LEAVE_OUT, BlankError, Blanks, Null, text_of

Rows = Sequence[tuple[str, Row]]
"""Rows, each with its place for messages."""


@dataclass
class Reading:
    """What was read of the rows that are kept, N of them.

    Attributes:
        kept: The position of each among all rows.
        places: Where each stands, for messages.
        texts: Its texts by column.
        labels: Its class, where the task has classes.
        references: Its answers, where the task generates them.
        groups: What it has in common with others, where the task has groups.
    """

    kept: list[int] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    texts: list[dict[str, str]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    references: list[tuple[Spans, ...]] = field(default_factory=list)
    groups: list[tuple[str, ...]] = field(default_factory=list)

    def arrays(self) -> dict[str, NDArray[np.int64]]:
        """``rows``, ``labels`` and, where the task has them, ``groups``, numbered as they come."""
        number: dict[tuple[str, ...], int] = {}
        groups = [number.setdefault(group, len(number)) for group in self.groups]
        labels = self.labels or [0] * len(self.kept)
        found = {"rows": self.kept, "labels": labels, **({"groups": groups} if groups else {})}
        return {name: np.array(values, dtype=np.int64) for name, values in found.items()}

    def drop(self, silent: Sequence[int], blanks: Blanks, *others: list[Any]) -> None:
        """Leaves out examples whose texts are no token for the tokenizer, here and in other lists, or refuses them.

        Raises:
            ValueError: If they are not to be left out, or nothing is left.
        """
        if silent and blanks != "leave_out":
            raise BlankError(
                f"{self.places[silent[0]]}: the text is 0 tokens for this tokenizer, must be at least one, {LEAVE_OUT}"
            )
        if len(silent) == len(self.kept):
            raise _none_left(self.places[0])
        gone = set(silent)
        for values in (*(getattr(self, entry.name) for entry in fields(self)), *others) if gone else ():
            values[:] = [value for i, value in enumerate(values) if i not in gone]


def read_rows(task: TextTask, rows: Rows, blanks: Blanks) -> Reading:
    """Reads rows.

    Raises:
        ValueError: If a row is not as the task needs it.
        BlankError: If it has a blank that is not to be left out.
    """
    found = Reading()
    for number, (place, row) in enumerate(rows):
        try:
            texts = task.texts(row, place, blank=blanks == "keep")
            if not any(texts[column] for column in task.columns):
                raise BlankError(f"{place}: {', '.join(task.columns)} must not all be blank, {LEAVE_OUT}")
            if isinstance(task, ClassificationTask):
                found.labels.append(task.label(row, place))
            else:
                assert isinstance(task, GenerationTask)
                found.references.append(task.references(row, place))
        except BlankError:
            if blanks != "leave_out":
                raise
            continue
        found.kept.append(number)
        found.places.append(place)
        found.texts.append(texts)
        if isinstance(task, ClassificationTask) and task.group:
            prepared = task.prepared(row, place)
            found.groups.append(tuple(prepared.get(column, "") for column in task.group))
    if rows and not found.kept:
        raise _none_left(rows[0][0])
    return found


def _none_left(place: str) -> ValueError:
    return ValueError(f"{place} and all other rows have a blank, so that blanks=leave_out leaves none")


def owned(rows: Rows, column: str, blanks: Blanks) -> Rows:
    """The rows whose owner is told.

    Raises:
        ValueError: If a row lacks the column, or it is no text.
        BlankError: If it is blank, and the row is not to be left out.
    """
    return [row for row in rows if text_of(row[1], column, row[0], blank=blanks == "leave_out")]


def column_codes(rows: Rows, column: str) -> NDArray[np.int64]:
    """The values of a column as numbers: their places among the distinct values, sorted as text."""
    number = {value: i for i, value in enumerate(sorted({row[column] for _, row in rows}))}
    return np.array([number[row[column]] for _, row in rows], dtype=np.int64)


def columns_with_values(rows: Rows) -> list[str]:
    """The names of all columns in which some row has a value, sorted."""
    return sorted({name for _, row in rows for name, value in row.items() if not isinstance(value, Null)})
