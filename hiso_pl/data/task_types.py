"""What a text task is: columns that make a prompt, and the answer after it, as one of several words or as free text."""

from __future__ import annotations

import hashlib
import json
from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from string import Formatter
from typing import Any, NamedTuple

from hiso_pl.data.readers import Row
from hiso_pl.data.text_metrics import TEXT_METRICS

CLASS_METRICS = ("accuracy", "macro_f1")
"""The metrics of classification."""


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
        prepare: Rewrites a row before anything is read from it, where columns are derived or have other names.
        version: Number of that function: to be raised when it changes, since a function has no fingerprint.
    """

    name: str
    template: str
    cut: tuple[str, ...] = ()
    metrics: tuple[str, ...]
    hub: HubDataset | None = None
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
            raise ValueError(f"{place}: {error}") from error

    def texts(self, row: Row, place: str) -> dict[str, str]:
        """The texts of a row, of prompt and answer columns, without the white space around them.

        Raises:
            ValueError: If the row lacks a column; the message begins with ``place``.
        """
        prepared = self.prepared(row, place)
        for column in (*self.columns, *self.answer_columns):
            if column not in prepared:
                raise ValueError(f"{place}: no column {column!r}, there are {', '.join(row)}")
        return {column: prepared[column].strip() for column in (*self.columns, *self.answer_columns)}

    def prompt(self, texts: dict[str, str]) -> str:
        """The prompt, which the answer follows."""
        return self.template.format(**texts)

    def changed(
        self,
        template: str | None = None,
        label_words: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        label_column: str | None = None,
    ) -> TextTask:
        """The task with those parts replaced that are given.

        With another template, only those columns may be cut that were before and that it still names.

        Raises:
            ValueError: If the new parts do not fit together, or the task has no such part.
        """
        for name, value in (("label_words", label_words), ("classes", classes), ("label_column", label_column)):
            if value is not None:
                raise ValueError(f"{name}={value!r} must be left out: task {self.name!r} generates its answers")
        return self if template is None else replace(self, **self._retold(template))

    def _retold(self, template: str) -> dict[str, Any]:
        named = columns_of(template, "template")
        return {"template": template, "cut": tuple(column for column in self.cut if column in named)}

    def fingerprint(self) -> str:
        """SHA-256 over all fields, ``prepare`` by its version, as hexadecimal digits."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "prepare"}
        values["prepare"] = self.prepare is not None
        told = json.dumps([type(self).__name__, values], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ClassificationTask(TextTask):
    """A task whose answer is one of several label words.

    Attributes:
        label_words: What follows the prompt for each class, with the space in front where there is one: a constant
            such as ``" great"``, or with columns in braces such as ``" {choice1}"``.
        classes: Name of each class, in the order of its number.
        label_column: Column that holds the label, as number or name of the class.
    """

    label_words: tuple[str, ...]
    classes: tuple[str, ...]
    label_column: str = "label"
    metrics: tuple[str, ...] = ("accuracy",)

    def __post_init__(self) -> None:
        """Checks that the parts fit together.

        Raises:
            ValueError: If they do not.
        """
        super().__post_init__()
        for i, word in enumerate(self.label_words):
            columns_of(word, "label_words")
            if word in self.label_words[:i]:
                raise ValueError(
                    f"label words {word!r} and {word!r} are the same tokens for any tokenizer, must be distinct"
                )
        if len(self.classes) < 2 or len({name.lower() for name in self.classes}) != len(self.classes):
            raise ValueError(f"classes={list(self.classes)} must be at least two distinct names")
        if len(self.label_words) != len(self.classes):
            raise ValueError(
                f"label_words={list(self.label_words)} must be {len(self.classes)} words, "
                f"one for each of the classes {', '.join(self.classes)}"
            )
        _check_metrics(self.metrics, CLASS_METRICS)

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """The columns that the label words name, each once."""
        return tuple(dict.fromkeys(column for word in self.label_words for column in columns_of(word, "label_words")))

    @property
    def constant(self) -> bool:
        """Whether the label words name no column, and so are the same for all examples."""
        return not self.answer_columns

    def candidates(self, texts: dict[str, str]) -> tuple[str, ...]:
        """The label words of one example, one for each class."""
        return tuple(word.format(**texts) for word in self.label_words)

    def label(self, row: Row, place: str) -> int:
        """The number of a row's class, given as such or by name.

        Raises:
            ValueError: If there is no such class; the message begins with ``place``.
        """
        prepared = self.prepared(row, place)
        if self.label_column not in prepared:
            raise ValueError(f"{place}: no column {self.label_column!r}, there are {', '.join(row)}")
        text = prepared[self.label_column].strip()
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
    ) -> ClassificationTask:
        """See :meth:`TextTask.changed`."""
        parts: dict[str, Any] = {} if template is None else self._retold(template)
        if label_words is not None:
            parts["label_words"] = tuple(label_words)
        if classes is not None:
            parts["classes"] = tuple(classes)
        if label_column is not None:
            parts["label_column"] = label_column
        return replace(self, **parts)


@dataclass(frozen=True, kw_only=True)
class GenerationTask(TextTask):
    r"""A task whose answer is written by the model.

    Attributes:
        answer: Column of the reference answers: one text, or a JSON list of several. A dotted path goes into a column
            of JSON: ``answers.text``, ``answers_spans.spans``.
        answer_prefix: What stands between prompt and answer in training.
        stop: What ends an answer: it is put after it in training, and what is generated is cut there. Without one
            (``""``), only the tokenizer's end of sequence ends it.
        max_new_tokens: Most tokens that are generated.
    """

    answer: str
    answer_prefix: str = " "
    stop: str = "\n"
    max_new_tokens: int = 32
    metrics: tuple[str, ...] = ("em", "f1")

    def __post_init__(self) -> None:
        """Checks that the parts fit together.

        Raises:
            ValueError: If they do not.
        """
        super().__post_init__()
        if not all(part.strip() for part in self.answer.split(".")):
            raise ValueError(f"answer={self.answer!r} must be a column, or a path into one such as 'answers.text'")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} must be at least 1")
        _check_metrics(self.metrics, tuple(TEXT_METRICS))

    def references(self, row: Row, place: str) -> tuple[str, ...]:
        """The reference answers of a row, each once, the one to train on first.

        Where the stop is white space, white space inside an answer becomes a single space, so that no answer holds
        its own end. No metric sees white space.

        Raises:
            ValueError: If there is none, one is empty, or one holds the stop; the message begins with ``place``.
        """
        prepared = self.prepared(row, place)
        column, *path = self.answer.split(".")
        if column not in prepared:
            raise ValueError(f"{place}: no column {column!r}, there are {', '.join(row)}")
        texts = [text.strip() for text in _leaves(prepared[column], path, f"{place}: {self.answer}")]
        if not texts or not all(texts):
            raise ValueError(f"{place}: {self.answer} is an empty answer, must be text")
        if self.stop.isspace():
            texts = [" ".join(text.split()) for text in texts]
        elif self.stop and any(self.stop in text for text in texts):
            raise ValueError(f"{place}: stop={self.stop!r} must be something that no answer of {self.answer} holds")
        return tuple(dict.fromkeys(texts))

    def continuation(self, references: Sequence[str]) -> str:
        """What follows the prompt in training: the first reference between prefix and stop."""
        return f"{self.answer_prefix}{references[0]}{self.stop}"


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


def _check_metrics(metrics: tuple[str, ...], known: tuple[str, ...]) -> None:
    if not metrics or len(set(metrics)) != len(metrics) or any(metric not in known for metric in metrics):
        raise ValueError(f"metrics={list(metrics)} must be one or several of {', '.join(known)}")


def _leaves(text: str, path: Sequence[str], place: str) -> list[str]:
    """The texts at the end of a path into a column of JSON; lists on the way are gone through one by one."""
    if not path and not text.lstrip().startswith("["):
        return [text]
    try:
        nodes = [json.loads(text)]
    except (ValueError, RecursionError) as error:
        if not path:  # a text that happens to begin with a bracket
            return [text]
        raise ValueError(f"{place} goes into a column that is not JSON: {text[:40]!r}") from error
    for part in path:
        nodes = _flat(nodes)
        for node in nodes:
            if not isinstance(node, dict) or part not in node:
                raise ValueError(f"{place}: no {part!r} in {json.dumps(node)[:60]}")
        nodes = [node[part] for node in nodes]
    leaves = _flat(nodes)
    if any(isinstance(leaf, dict) for leaf in leaves):
        raise ValueError(f"{place} must lead to text, leads to {json.dumps(leaves[0])[:60]}")
    return [leaf if isinstance(leaf, str) else "" if leaf is None else json.dumps(leaf) for leaf in leaves]


def _flat(nodes: list[Any]) -> list[Any]:
    """The nodes, with the items of lists in place of the lists."""
    return [item for node in nodes for item in (_flat(node) if isinstance(node, list) else [node])]
