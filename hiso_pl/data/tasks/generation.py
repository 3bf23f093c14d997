"""Tasks whose answer is written by the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hiso_pl.data.limits import Row
from hiso_pl.data.measures import check_metrics
from hiso_pl.data.tasks.base import TextTask
from hiso_pl.data.text_metrics import TEXT_METRICS, Spans
from hiso_pl.data.values import LEAVE_OUT, BlankError, Structure, is_blank, missing


@dataclass(frozen=True, kw_only=True)
class GenerationTask(TextTask):
    r"""A task whose answer is written by the model.

    Attributes:
        answer: Column of the reference answers: one text, or a JSON list of several. A dotted path goes into a column
            of JSON: ``answers.text``, ``answers_spans.spans``.
        separator: What stands between the spans of an answer that has several, which is a list in that list. Without
            one (``""``) each text of such a list is an answer of its own.
        answer_prefix: What stands between prompt and answer in training.
        stop: What ends an answer: it is put after it in training, and what is generated is cut there. Without one
            (``""``), only the tokenizer's end of sequence ends it.
        max_new_tokens: Most tokens that are generated.
    """

    answer: str
    separator: str = ""
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
        check_metrics(self.metrics, TEXT_METRICS)

    @property
    def target_columns(self) -> tuple[str, ...]:
        """See :class:`TextTask`."""
        return (self.answer.split(".")[0],)

    def references(self, row: Row, place: str) -> tuple[Spans, ...]:
        """The reference answers of a row, each once, the one to train on first; one of several spans as a tuple.

        Where the stop is white space, white space inside an answer becomes a single space, so that no answer holds
        its own end. No metric sees white space.

        Raises:
            ValueError: If one holds the stop, or is no text; the message begins with ``place``.
            BlankError: If there is none, or one is blank.
        """
        column, *path = self.answer.split(".")
        prepared = self.prepared(row, place)
        if column not in prepared:
            raise missing(row, column, place)
        value = prepared[column]
        found = [] if is_blank(value) else _answers(value, path, f"{place}: {self.answer}")
        if not self.separator:
            found = _flat(found)
        answers = [self._answer(answer, place) for answer in found]
        if not answers or not all(answers):
            raise BlankError(f"{place}: {self.answer} is an empty answer, must be text, {LEAVE_OUT}")
        return tuple(dict.fromkeys(answers))

    def continuation(self, references: Sequence[Spans]) -> str:
        """What follows the prompt in training: the first reference between prefix and stop."""
        first = references[0]
        text = first if isinstance(first, str) else self.separator.join(first)
        return f"{self.answer_prefix}{text}{self.stop}"

    def _answer(self, answer: Any, place: str) -> Spans:
        """An answer as text, or of several spans as texts; empty where it, or a span of it, is blank."""
        spans = [_text(leaf, f"{place}: {self.answer}").strip() for leaf in _flat([answer])]
        if self.stop.isspace():
            spans = [" ".join(span.split()) for span in spans]
        elif self.stop and any(self.stop in span for span in spans):
            raise ValueError(f"{place}: stop={self.stop!r} must be something that no answer of {self.answer} holds")
        if not all(spans):
            return ""
        return spans[0] if len(spans) == 1 else tuple(spans)


def _answers(text: str, path: Sequence[str], place: str) -> list[Any]:
    """What lies at the end of a path into a column of JSON; lists on the way are gone through one by one."""
    if not path and not isinstance(text, Structure) and not text.lstrip().startswith("["):
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
    return [item for node in nodes for item in (node if isinstance(node, list) else [node])]


def _text(leaf: Any, place: str) -> str:
    if isinstance(leaf, dict):
        raise ValueError(f"{place} must lead to text, leads to {json.dumps(leaf)[:60]}")
    if isinstance(leaf, str):
        return leaf
    return "" if leaf is None or leaf != leaf else json.dumps(leaf)  # NaN is no number


def _flat(nodes: list[Any]) -> list[Any]:
    """The nodes, with the items of lists in place of the lists."""
    return [item for node in nodes for item in (_flat(node) if isinstance(node, list) else [node])]
