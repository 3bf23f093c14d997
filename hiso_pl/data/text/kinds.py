"""The two ways of putting text to a model: as prompts, to be answered with a label word or freely, or as sentences."""

from __future__ import annotations

from typing import Any, Literal

from hiso_pl.data.cache import Arrays
from hiso_pl.data.class_order import check_flipping
from hiso_pl.data.facts import ModelFacts
from hiso_pl.data.tasks import ClassificationTask, TextTask
from hiso_pl.data.text.base import TextData
from hiso_pl.data.text.encoding import encode_prompts, encode_sentences
from hiso_pl.data.text.prompts import Limit
from hiso_pl.data.text.reading import Rows
from hiso_pl.data.text.tokenizing import Tokenizer


class PromptData(TextData):
    """Examples as prompts, to be continued with a label word or with free text: for ``CausalLM``.

    Args:
        label_words: Other label words, one for each class, with the space in front where there is one.
        scoring: Whether a label word of several tokens is scored by the sum of their log-likelihoods or by their mean,
            as in MeZO's code; None leaves it to the task, and those known by name sum. It is the loss's score as well.
        options: Task, data, tokenizer and sizes, as in :class:`TextData`.
    """

    def __init__(
        self,
        label_words: list[str] | None = None,
        scoring: Literal["sum", "mean"] | None = None,
        **options: Any,
    ) -> None:
        self._parts = {"label_words": label_words, "scoring": scoring}
        super().__init__(**options)

    def change_task(self, task: TextTask, **parts: Any) -> TextTask:
        """The task with the options of the configuration in place of its own."""
        return task.changed(**self._parts, **parts)

    def take(self, facts: ModelFacts) -> None:
        """See :class:`FederatedDataModule`; what has no classes is known before anything is read."""
        check_flipping(facts, len(self.task.classes) if isinstance(self.task, ClassificationTask) else 0)
        super().take(facts)

    def encode(self, tokenizer: Tokenizer, rows: Rows, limit: Limit) -> Arrays:
        """See :func:`hiso_pl.data.text.encoding.encode_prompts`."""
        return encode_prompts(tokenizer, self.task, rows, limit, self.blanks)


class SentenceClassification(TextData):
    """Examples as sentences or pairs of them, without a prompt: for ``SequenceClassifier``.

    The columns of the template are the texts; the rest of the template and the label words are not used.

    Args:
        options: Task, data, tokenizer and sizes, as in :class:`TextData`.
    """

    task: ClassificationTask

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if len(self.task.columns) > 2:
            raise ValueError(f"template={self.task.template!r} names {len(self.task.columns)} columns, must be 1 or 2")

    def change_task(self, task: TextTask, **parts: Any) -> TextTask:
        """The task with the options of the configuration in place of its own."""
        if not isinstance(task, ClassificationTask):
            raise ValueError(f"task={task.name!r} generates its answers, must be one with classes")
        # Label words play no part here, so other classes need none.
        return task.changed(label_words=parts["classes"] or None, **parts)

    def encode(self, tokenizer: Tokenizer, rows: Rows, limit: Limit) -> Arrays:
        """See :func:`hiso_pl.data.text.encoding.encode_sentences`."""
        return encode_sentences(tokenizer, self.task, rows, limit, self.blanks)
