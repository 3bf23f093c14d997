"""What is measured of a split's predictions: numbers for each example, and the metrics made of all of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hiso_pl.data.text_metrics import SPAN_METRICS, TEXT_METRICS, Spans

if TYPE_CHECKING:
    from hiso_pl.models.task_model import Evaluation

CLASS_METRICS = ("accuracy", "macro_f1", "f1a", "question_em")
"""The metrics of classification; MultiRC's two are for two classes, and for examples that are answers to questions."""


class Measure(ABC):
    """What a split's metrics are made of.

    The numbers of an example depend on it alone, and the metrics on the table of all examples in index order: so they
    do not depend on how the examples were dealt over batches and ranks.

    Attributes:
        columns: Names of the numbers kept of each example, beside its loss.
    """

    columns: tuple[str, ...]

    @abstractmethod
    def rows(self, indices: NDArray[np.int64], evaluation: Evaluation) -> NDArray[np.float64]:
        """The numbers of the examples of a batch.

        Args:
            indices: Positions of the examples in the split, shape ``[B]``.
            evaluation: What the model says of them, in that order.

        Returns:
            A number for each column, shape ``[B, len(columns)]``.
        """

    @abstractmethod
    def combine(self, table: NDArray[np.float64]) -> dict[str, float]:
        """The metrics by name.

        Args:
            table: The rows of all examples measured, in index order, shape ``[N, len(columns)]`` with N at least 1.
        """

    @abstractmethod
    def lines(self, indices: NDArray[np.int64], evaluation: Evaluation) -> list[dict[str, Any]]:
        """What a file of predictions says of each example of a batch; the arguments are those of :meth:`rows`."""


class ClassMeasure(Measure):
    """Labels and predicted classes, and the metrics of their counts.

    Args:
        labels: Label of each example of the split, shape ``[N]``.
        classes: Name of each class.
        metrics: Names of :data:`CLASS_METRICS`.
        groups: Number of the question that each example answers, shape ``[N]``, where they answer some.

    Raises:
        ValueError: If there is no such metric, or it does not fit these examples.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        classes: Sequence[str],
        metrics: Sequence[str] = ("accuracy",),
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        check_metrics(metrics, CLASS_METRICS)
        if "f1a" in metrics and len(classes) != 2:
            raise ValueError(f"metrics={list(metrics)}: f1a is for 2 classes, not {len(classes)}")
        if "question_em" in metrics and groups is None:
            raise ValueError(f"metrics={list(metrics)}: question_em needs to know which examples answer one question")
        self.columns = ("label", "prediction") if groups is None else ("label", "prediction", "group")
        self.groups = groups
        self.labels = labels
        self.classes = tuple(classes)
        self.metrics = tuple(metrics)

    def rows(self, indices: NDArray[np.int64], evaluation: Evaluation) -> NDArray[np.float64]:
        """Label and predicted class, and the question where there are some, shape ``[B, 2]`` or ``[B, 3]``."""
        told = [self.labels[indices], evaluation.prediction.cpu().numpy()]
        told += [] if self.groups is None else [self.groups[indices]]
        return np.stack(told, axis=1).astype(np.float64)

    def combine(self, table: NDArray[np.float64]) -> dict[str, float]:
        """See :class:`Measure`; the metrics are made of integer counts."""
        label, prediction, *groups = table.astype(np.int64).T
        known = {"accuracy": accuracy, "macro_f1": macro_f1, "f1a": f1a}
        return {
            name: question_em(label, prediction, groups[0]) if name == "question_em" else known[name](label, prediction)
            for name in self.metrics
        }

    def lines(self, indices: NDArray[np.int64], evaluation: Evaluation) -> list[dict[str, Any]]:
        """The class predicted, the class an example is labelled with, and the score of each class."""
        told = zip(
            self.labels[indices].tolist(), evaluation.prediction.tolist(), evaluation.scores.tolist(), strict=True
        )
        return [
            {
                "prediction": self.classes[guess],
                "label": self.classes[truth],
                "scores": dict(zip(self.classes, scores, strict=True)),
            }
            for truth, guess, scores in told
        ]


def accuracy(label: NDArray[np.int64], prediction: NDArray[np.int64]) -> float:
    """The share of examples whose class is predicted; both of shape ``[N]``."""
    return int((label == prediction).sum()) / len(label)


def macro_f1(label: NDArray[np.int64], prediction: NDArray[np.int64]) -> float:
    """The mean of the classes' F1, over the classes that are a label or a prediction.

    With the counts of true positives TP, false positives FP and false negatives FN of a class,

        F1 = 2 TP / (2 TP + FP + FN) = 2 TP / (predicted + labelled).

    Args:
        label: Label of each example, shape ``[N]``.
        prediction: Predicted class of each example, shape ``[N]``.
    """
    scores = []
    for number in np.union1d(label, prediction).tolist():
        labelled, predicted = label == number, prediction == number
        scores.append(2 * int((labelled & predicted).sum()) / (int(labelled.sum()) + int(predicted.sum())))
    return math.fsum(scores) / len(scores)


def f1a(label: NDArray[np.int64], prediction: NDArray[np.int64]) -> float:
    """The F1 of class 1 over all examples, MultiRC's F1a; 0 where it is neither a label nor predicted.

    Source: Khashabi et al. (2018), "Looking beyond the surface", and SuperGLUE (arXiv 1905.00537), where an example is
    an answer to a question, and class 1 says that it is right.
    """
    labelled, predicted = label == 1, prediction == 1
    both = int(labelled.sum()) + int(predicted.sum())
    return 2 * int((labelled & predicted).sum()) / both if both else 0.0


def question_em(label: NDArray[np.int64], prediction: NDArray[np.int64], groups: NDArray[np.int64]) -> float:
    """The share of questions with no wrong example, SuperGLUE's exact match of MultiRC; all of shape ``[N]``.

    Where a part of the examples was drawn, a question has those of its answers that were.
    """
    wrong = np.unique(groups[label != prediction])
    questions = len(np.unique(groups))
    return (questions - len(wrong)) / questions


class TextMeasure(Measure):
    """Generated texts against reference answers.

    A reference of several spans, as DROP has them, is a tuple: DROP's metrics compare it with the spans of the text,
    cut at the separator, and a reference of one span with the whole text, which may hold the separator itself. The
    other metrics know single texts only: for them each span is an answer of its own, as in MeZO.

    Args:
        references: The reference answers of each example of the split, N tuples of at least one.
        decode: Makes text of token ids, without special tokens.
        stop: What ends an answer: a text is cut there; ``""`` cuts nothing.
        metrics: Names of :data:`hiso_pl.data.text_metrics.TEXT_METRICS`.
        separator: What stands between the spans of an answer of several; ``""`` if there are no such.

    Raises:
        ValueError: If there is no such metric.
    """

    def __init__(
        self,
        references: Sequence[tuple[Spans, ...]],
        decode: Callable[[list[int]], str],
        stop: str,
        metrics: Sequence[str] = ("em", "f1"),
        separator: str = "",
    ) -> None:
        check_metrics(metrics, TEXT_METRICS)
        self.references = references
        self.decode = decode
        self.stop = stop
        self.columns = tuple(metrics)
        self.separator = separator.strip() or separator

    def rows(self, indices: NDArray[np.int64], evaluation: Evaluation) -> NDArray[np.float64]:
        """The value of each metric, shape ``[B, len(columns)]``."""
        values = [list(self._scores(*told).values()) for told in self._told(indices, evaluation)]
        return np.array(values, dtype=np.float64).reshape(len(indices), len(self.columns))

    def combine(self, table: NDArray[np.float64]) -> dict[str, float]:
        """The mean of each metric, summed exactly and rounded once."""
        return {name: math.fsum(table[:, i].tolist()) / len(table) for i, name in enumerate(self.columns)}

    def lines(self, indices: NDArray[np.int64], evaluation: Evaluation) -> list[dict[str, Any]]:
        """The text generated, the reference answers, and the value of each metric."""
        return [
            {"prediction": text, "references": list(references), **self._scores(text, references)}
            for text, references in self._told(indices, evaluation)
        ]

    def _told(self, indices: NDArray[np.int64], evaluation: Evaluation) -> list[tuple[str, tuple[Spans, ...]]]:
        """The generated text and the references of each example of a batch."""
        tokens = evaluation.prediction.tolist()  # [B, G], filled up with -1
        return [
            (self._text([token for token in row if token >= 0]), self.references[i])
            for i, row in zip(indices.tolist(), tokens, strict=True)
        ]

    def _text(self, tokens: list[int]) -> str:
        text = self.decode(tokens)
        return (text.split(self.stop, 1)[0] if self.stop else text).strip()

    def _scores(self, text: str, references: tuple[Spans, ...]) -> dict[str, float]:
        flat = [span for answer in references for span in ([answer] if isinstance(answer, str) else answer)]
        return {
            name: max(TEXT_METRICS[name](self._spans(text, answer), [answer]) for answer in references)
            if name in SPAN_METRICS
            else TEXT_METRICS[name](text, flat)
            for name in self.columns
        }

    def _spans(self, text: str, reference: Spans) -> Spans:
        """What of a text is compared with a reference: the whole, or the spans of it."""
        if isinstance(reference, str) or not self.separator:
            return text
        return tuple(span.strip() for span in text.split(self.separator) if span.strip()) or text


def check_metrics(metrics: Sequence[str], known: Iterable[str]) -> None:
    """Refuses names of no metric, none, and one named twice.

    Raises:
        ValueError: If they are such.
    """
    if not metrics or len(set(metrics)) != len(metrics) or not set(metrics) <= set(known):
        raise ValueError(f"metrics={list(metrics)} must be one or several of {', '.join(known)}")
