"""What the values of a table are to a task, by one rule for all forms of data: files, saved folders and the hub.

- **Text** is taken as it is. A number or truth value has its JSON spelling (``1``, ``1.0``, ``true``), a date or time
  that of ISO 8601.
- **Null** is no value: null and NaN in JSON, a key that a line lacks, null and NaN in Arrow's tables. A row holds
  :data:`NULL` for it. Tables of text (.tsv, .csv) cannot say null; their empty cell is an empty text.
- **Blank** is a value that says nothing: null, or a text of nothing but white space. No example is made of one without
  being asked to: a text, a label, an answer or an owner that is blank is refused with file and line, or the row is left
  out and counted (``blanks: leave_out``). With ``blanks: keep`` a blank text is the empty text in a prompt or pair that
  has others.
- **A structure** is a list, a mapping or bytes, as :class:`Structure`. A task may look into it (``answers.text``), but
  it is no text of a prompt: there it is refused.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Mapping
from typing import Literal

from hiso_pl.data.limits import Row

Blanks = Literal["refuse", "leave_out", "keep"]
"""What is done with an example that has a blank."""

BLANKS = ("refuse", "leave_out", "keep")

LEAVE_OUT = "or be left out by blanks=leave_out"


class Null(str):
    """No value; it reads as an empty text."""

    __slots__ = ()


NULL = Null()
"""What a row holds for null."""


class Structure(str):
    """A list, a mapping or bytes, in their JSON spelling."""

    __slots__ = ()


class BlankError(ValueError):
    """An example has a blank where it needs a text, a label, an answer or an owner."""


def text_values(values: Mapping[str, object]) -> Row:
    """Values of any kind, as a row holds them."""
    return {name: _text(value) for name, value in values.items()}


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NULL
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    if isinstance(value, (datetime.date, datetime.time, decimal.Decimal)):
        return str(value)
    return Structure(json.dumps(value, default=str))


def is_blank(value: str) -> bool:
    """Whether a value says nothing."""
    return not value.strip()


def missing(row: Row, column: str, place: str) -> ValueError:
    """The error that says that a row has no such column."""
    return ValueError(f"{place}: no column {column!r}, there are {', '.join(row)}")


def filled(row: Row, column: str, place: str) -> str:
    """A value that says something.

    Raises:
        ValueError: If there is no such column.
        BlankError: If it is blank.
    """
    if column not in row:
        raise missing(row, column, place)
    value = row[column]
    if is_blank(value):
        what = "null" if isinstance(value, Null) else "empty"
        raise BlankError(f"{place}: column {column!r} is {what}, must say something, {LEAVE_OUT}")
    return value


def text_of(row: Row, column: str, place: str, blank: bool = False) -> str:
    """A text, without the white space around it.

    Args:
        row: The row.
        column: The column.
        place: The row's place, for messages.
        blank: Whether it may be blank.

    Raises:
        ValueError: If there is no such column, or it holds a structure.
        BlankError: If it is blank and may not be.
    """
    if blank and column in row and is_blank(row[column]):
        return ""
    value = filled(row, column, place)
    if isinstance(value, Structure):
        kind = {"[": "a list", "{": "a mapping"}.get(value[:1], "no text")
        raise ValueError(f"{place}: column {column!r} is {kind}, must be text: {value[:60]}")
    return value.strip()
