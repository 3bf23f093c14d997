"""Tasks whose answer is one of several label words."""

from __future__ import annotations

from dataclasses import dataclass

from hiso_pl.data.limits import Row
from hiso_pl.data.measures import CLASS_METRICS, check_metrics
from hiso_pl.data.tasks.base import TextTask, columns_of
from hiso_pl.data.values import filled


@dataclass(frozen=True, kw_only=True)
class ClassificationTask(TextTask):
    """A task whose answer is one of several label words.

    Attributes:
        label_words: What follows the prompt for each class, with the space in front where there is one: a constant
            such as ``" great"``, or with columns in braces such as ``" {choice1}"``.
        classes: Name of each class, in the order of its number.
        label_column: Column that holds the label, as number or name of the class.
        group: Columns whose texts say together which examples belong together, such as the answers to one question.
    """

    label_words: tuple[str, ...]
    classes: tuple[str, ...]
    label_column: str = "label"
    group: tuple[str, ...] = ()
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
        check_metrics(self.metrics, CLASS_METRICS)

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """The columns that the label words name, each once."""
        return tuple(dict.fromkeys(column for word in self.label_words for column in columns_of(word, "label_words")))

    @property
    def target_columns(self) -> tuple[str, ...]:
        """See :class:`TextTask`."""
        return (self.label_column,)

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
            BlankError: If it is blank.
        """
        text = filled(self.prepared(row, place), self.label_column, place).strip()
        names = [name.lower() for name in self.classes]
        if text.lower() in names:
            return names.index(text.lower())
        if text.isdecimal() and int(text) < len(names):
            return int(text)
        raise ValueError(
            f"{place}: {self.label_column}={text!r} must be 0 to {len(names) - 1} or one of {', '.join(self.classes)}"
        )
