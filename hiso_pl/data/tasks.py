"""Text tasks: which columns make the text, how they become a prompt, and which word stands for which class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from string import Formatter
from typing import NamedTuple

from hiso_pl.data.readers import Row


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


@dataclass(frozen=True)
class TextTask:
    """A classification task on one text or several.

    Attributes:
        name: Name of the task.
        template: The prompt, with the columns of the text in braces; the label word comes after it.
        label_words: The word after the prompt for each class, with the space in front where there is one.
        classes: Name of each class, in the order of its number.
        label_column: Column that holds the label, as number or name of the class.
        hub: Where the hub has the data.
    """

    name: str
    template: str
    label_words: tuple[str, ...]
    classes: tuple[str, ...]
    label_column: str = "label"
    hub: HubDataset | None = None

    def __post_init__(self) -> None:
        """Checks that the parts fit together.

        Raises:
            ValueError: If they do not.
        """
        if len(self.classes) < 2 or len({name.lower() for name in self.classes}) != len(self.classes):
            raise ValueError(f"classes={list(self.classes)} must be at least two distinct names")
        if len(self.label_words) != len(self.classes):
            raise ValueError(
                f"label_words={list(self.label_words)} must be {len(self.classes)} words, "
                f"one for each of the classes {', '.join(self.classes)}"
            )
        try:
            parts = list(Formatter().parse(self.template))
        except ValueError as error:
            raise ValueError(f"template={self.template!r} is not a format string: {error}") from error
        fields = [(field, spec, conversion) for _, field, spec, conversion in parts if field is not None]
        if not fields or any(not field.isidentifier() or spec or conversion for field, spec, conversion in fields):
            raise ValueError(f"template={self.template!r} must name columns in braces, as in '{{sentence}} It was'")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the text, in the order of the template, each once."""
        return tuple(dict.fromkeys(field for _, field, _, _ in Formatter().parse(self.template) if field is not None))

    def texts(self, row: Row, place: str) -> dict[str, str]:
        """The texts of a row, without the white space around them.

        Raises:
            ValueError: If the row lacks a column; the message begins with ``place``.
        """
        for column in self.columns:
            if column not in row:
                raise ValueError(f"{place}: no column {column!r}, there are {', '.join(row)}")
        return {column: row[column].strip() for column in self.columns}

    def prompt(self, texts: dict[str, str]) -> str:
        """The prompt, which the label word follows."""
        return self.template.format(**texts)

    def label(self, row: Row, place: str) -> int:
        """The number of a row's class, given as such or by name.

        Raises:
            ValueError: If there is no such class; the message begins with ``place``.
        """
        if self.label_column not in row:
            raise ValueError(f"{place}: no column {self.label_column!r}, there are {', '.join(row)}")
        text = row[self.label_column].strip()
        names = [name.lower() for name in self.classes]
        if text.lower() in names:
            return names.index(text.lower())
        if text.isdecimal() and int(text) < len(names):
            return int(text)
        raise ValueError(
            f"{place}: {self.label_column}={text!r} must be 0 to {len(names) - 1} or one of {', '.join(self.classes)}"
        )

    def changed(
        self,
        template: str | None = None,
        label_words: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        label_column: str | None = None,
    ) -> TextTask:
        """The task with those parts replaced that are given."""
        return replace(
            self,
            template=self.template if template is None else template,
            label_words=self.label_words if label_words is None else tuple(label_words),
            classes=self.classes if classes is None else tuple(classes),
            label_column=self.label_column if label_column is None else label_column,
        )


_SST2 = TextTask(
    name="sst2",
    template="{sentence} It was",
    label_words=(" terrible", " great"),
    classes=("negative", "positive"),
    hub=HubDataset("nyu-mll/glue", "sst2"),
)

TASKS: dict[str, TextTask] = {
    task.name: task
    for task in (
        _SST2,  # prompt and label words as in MeZO
        replace(_SST2, name="sst2-hiso", label_words=(" bad", " good")),  # label words as in HiSo's experiments
        TextTask(
            name="rte",
            template='{sentence1}\nDoes this mean that "{sentence2}" is true? Yes or No?\n',
            label_words=("Yes", "No"),
            classes=("entailment", "not_entailment"),
            hub=HubDataset("nyu-mll/glue", "rte"),
        ),
        TextTask(
            name="qqp",
            template="Question 1: {question1}\nQuestion 2: {question2}\nAre they semantically equivalent? Yes or No?\n",
            label_words=("No", "Yes"),
            classes=("different", "duplicate"),
            hub=HubDataset("nyu-mll/glue", "qqp"),
        ),
        TextTask(
            name="cb",
            template='Suppose {premise} Can we infer that "{hypothesis}"? Yes, No, or Maybe?\n',
            label_words=("Yes", "No", "Maybe"),
            classes=("entailment", "contradiction", "neutral"),
        ),
        TextTask(
            name="boolq",
            template="{passage} {question}?",
            label_words=(" No", " Yes"),
            classes=("false", "true"),
            hub=HubDataset("google/boolq", None, label_column="answer"),
        ),
    )
}
"""The tasks known by name. Without ``hub`` a task needs local files."""


def find_task(name: str) -> TextTask:
    """A task by its name.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in TASKS:
        raise ValueError(f"task={name!r} must be one of {', '.join(TASKS)}")
    return TASKS[name]
