"""Tasks whose answer is written by the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hiso_pl.data.limits import Row
from hiso_pl.data.measures import check_metrics
from hiso_pl.data.tasks.base import TextTask
from hiso_pl.data.text_metrics import TEXT_METRICS


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
        check_metrics(self.metrics, TEXT_METRICS)

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
