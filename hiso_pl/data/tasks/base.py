"""What all text tasks have in common: columns that make a prompt, which an answer follows."""

from __future__ import annotations

import hashlib
import json
from abc import ABC
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from string import Formatter
from typing import Any, NamedTuple

from typing_extensions import Self

from hiso_pl.data.limits import Row
from hiso_pl.data.values import missing, text_of


class HubDataset(NamedTuple):
    """Where the Hugging Face hub keeps a task's data.

    Attributes:
        path: Name of the dataset.
        name: Name of its configuration, where it has several.
        train: Name of the training split.
        validation: Name of the labelled split for validation.
        label_column: Name of the label's column there.
    """

    path: str
    name: str | None
    train: str = "train"
    validation: str = "validation"
    label_column: str = "label"


@dataclass(frozen=True, kw_only=True)
class TextTask(ABC):
    """A task whose examples are prompts made of columns of text.

    Attributes:
        name: Name of the task.
        template: The prompt, with the columns of the text in braces; the answer comes after it.
        cut: Columns that may be cut when a prompt is too long, such as a passage; none means all of the template's.
        metrics: Names of the metrics, the first being the one that papers report.
        hub: Where the hub has the data.
        published: What the set's published files hold, where that is something else than the columns; for messages.
        unfold: Makes the rows of an entry of such a file, each with what its place is called inside the entry; None for
            what is a row already.
        prepare: Rewrites a row before anything is read from it, where columns are derived or have other names.
        version: Number of these functions: to be raised when one changes, since a function has no fingerprint.
    """

    name: str
    template: str
    cut: tuple[str, ...] = ()
    metrics: tuple[str, ...]
    hub: HubDataset | None = None
    published: str = field(default="", compare=False, repr=False)
    unfold: Callable[[Row], Iterator[tuple[str, Row]] | None] | None = field(default=None, compare=False, repr=False)
    prepare: Callable[[Row], Row] | None = field(default=None, compare=False, repr=False)
    version: int = 1

    def __post_init__(self) -> None:
        """Checks the template and what it is cut by.

        Raises:
            ValueError: If they do not fit together.
        """
        if not columns_of(self.template, "template"):
            raise ValueError(f"template={self.template!r} must name columns in braces, as in '{{sentence}} It was'")
        for column in self.cut:
            if column not in self.columns:
                raise ValueError(f"cut={list(self.cut)} must be columns of the template: {', '.join(self.columns)}")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the prompt, in the order of the template, each once."""
        return columns_of(self.template, "template")

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """Further columns whose text an answer is made of, such as the choices of COPA. They are never cut."""
        return ()

    def prepared(self, row: Row, place: str) -> Row:
        """The row as the task reads it.

        Raises:
            ValueError: If it cannot be made so; the message begins with ``place``.
        """
        if self.prepare is None:
            return row
        try:
            return self.prepare(row)
        except ValueError as error:
            raise type(error)(f"{place}: {error}") from error

    def check_form(self, row: Row, place: str) -> None:
        """Refuses a row that lacks a column, and says what the task takes.

        Raises:
            ValueError: If it does; the message begins with ``place``.
        """
        try:
            prepared = self.prepared(row, place)
        except ValueError:
            prepared = row  # whatever is wrong with it otherwise is said when it is read
        needed = dict.fromkeys([*self.columns, *self.answer_columns, *self.target_columns])
        for column in needed:
            if column not in prepared:
                also = f", or {self.published}" if self.published else ""
                told = f"task {self.name!r} takes columns {', '.join(needed)}{also}"
                raise ValueError(f"{missing(row, column, place)}: {told}")

    @property
    def target_columns(self) -> tuple[str, ...]:
        """The columns of what is learnt: a label, or answers."""
        return ()

    def texts(self, row: Row, place: str, blank: bool = False) -> dict[str, str]:
        """The texts of a row, of prompt and answer columns, without the white space around them.

        Args:
            row: The row.
            place: Its place, for messages.
            blank: Whether texts of the prompt may be blank.

        Raises:
            ValueError: If the row lacks a column, or one is no text; the message begins with ``place``.
            BlankError: If one is blank.
        """
        prepared = self.prepared(row, place)
        found = {column: text_of(prepared, column, place, blank) for column in self.columns}
        return found | {column: text_of(prepared, column, place) for column in self.answer_columns}

    def prompt(self, texts: dict[str, str]) -> str:
        """The prompt, which the answer follows."""
        return self.template.format(**texts)

    def changed(self, **parts: Any) -> Self:
        """The task with those parts replaced that are given; None stands for one that is not.

        With another template, only those columns may be cut that were before and that it still names.

        Raises:
            ValueError: If the new parts do not fit together, or the task has no such part.
        """
        given = {name: value for name, value in parts.items() if value is not None}
        known = {entry.name for entry in fields(self)}
        for name, value in given.items():
            if name not in known:
                raise ValueError(f"{name}={value!r} must be left out: task {self.name!r} generates its answers")
        if "template" in given:
            named = columns_of(given["template"], "template")
            given["cut"] = tuple(column for column in self.cut if column in named)
        return replace(self, **tuples(given))

    def fingerprint(self) -> str:
        """SHA-256 over all fields, functions by their version, as hexadecimal digits."""
        unprinted = ("prepare", "published", "unfold")
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in unprinted}
        values["prepare"] = self.prepare is not None
        told = json.dumps([type(self).__name__, values], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()


def columns_of(template: str, name: str) -> tuple[str, ...]:
    """The columns that a template names in braces, in order, each once.

    Args:
        template: A format string.
        name: What it is called in messages.

    Raises:
        ValueError: If it is no format string, or names what is no column.
    """
    try:
        parts = [part for part in Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise ValueError(f"{name}={template!r} is not a format string: {error}") from error
    if any(
        not column.isidentifier() or spec or conversion for _, column, spec, conversion in parts if column is not None
    ):
        raise ValueError(f"{name}={template!r} must name columns in braces, as in '{{sentence}} It was'")
    return tuple(dict.fromkeys(column for _, column, _, _ in parts if column is not None))


def tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with tuples for lists, as a task keeps them."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
