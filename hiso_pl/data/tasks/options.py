"""A user's own text task as a mapping of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hiso_pl.data.tasks.base import tuples
from hiso_pl.data.tasks.classification import ClassificationTask
from hiso_pl.data.tasks.generation import GenerationTask

OWN = "own"
"""Name of a task that the configuration defines."""


@dataclass
class ClassificationOptions:
    """A user's own classification task.

    Args:
        template: The prompt, with the columns of the text in braces; the label word comes after it.
        label_words: What follows the prompt for each class, with the space in front where there is one: a constant
            such as " great", or with columns in braces such as " {choice1}".
        classes: Name of each class, in the order of its number; None takes the label words as names.
        label_column: Column that holds the label, as number or name of the class.
        cut: Columns that may be cut when a prompt is too long; none means all of the template's.
        metrics: Names of the metrics: accuracy, macro_f1; of two classes also f1a, the F1 of the second.
        scoring: Whether a label word of several tokens is scored by the sum of their log-likelihoods, or by the mean.
    """

    template: str
    label_words: list[str]
    classes: list[str] | None = None
    label_column: str = "label"
    cut: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=lambda: ["accuracy"])
    scoring: Literal["sum", "mean"] = "sum"

    def build(self) -> ClassificationTask:
        """The task that they describe.

        Raises:
            ValueError: If they do not make one.
        """
        given = {name: value for name, value in vars(self).items() if value is not None}
        words = {"name": OWN, "classes": tuple(word.strip(" \n{}") for word in self.label_words)}
        return ClassificationTask(**{**words, "named": self.classes is not None, **tuples(given)})


@dataclass
class GenerationOptions:
    r"""A user's own generation task.

    Args:
        template: The prompt, with the columns of the text in braces; the answer comes after it.
        answer: Column of the reference answers; a dotted path such as answers.text goes into a column of JSON.
        answer_prefix: What stands between prompt and answer in training.
        stop: What ends an answer, "\n" by default; "" leaves that to the tokenizer's end of sequence.
        max_new_tokens: Most tokens that are generated.
        cut: Columns that may be cut when a prompt is too long; none means all of the template's.
        metrics: Names of the metrics: em, f1, drop_em, drop_f1, rouge1, rouge2, rougeL.
    """

    template: str
    answer: str
    answer_prefix: str = " "
    stop: str = "\n"
    max_new_tokens: int = 32
    cut: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=lambda: ["em", "f1"])

    def build(self) -> GenerationTask:
        """The task that they describe.

        Raises:
            ValueError: If they do not make one.
        """
        return GenerationTask(name=OWN, **tuples(vars(self)))


TaskOptions = ClassificationOptions | GenerationOptions
"""A user's own task, told apart by its keys."""
