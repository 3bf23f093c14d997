"""Tasks whose answer is one of several label words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from typing_extensions import Self

from hiso_pl.class_names import places, plain, says_something
from hiso_pl.data.limits import Row
from hiso_pl.data.measures import CLASS_METRICS, check_metrics
from hiso_pl.data.tasks.base import TextTask, columns_of
from hiso_pl.data.values import filled

_NUMBER = re.compile(r"(\d{1,9})(?:\.0+)?")  # tables write whole numbers as 1.0 where some are missing


@dataclass(frozen=True, kw_only=True)
class ClassificationTask(TextTask):
    """A task whose answer is one of several label words.

    Attributes:
        label_words: What follows the prompt for each class, with the space in front where there is one: a constant
            such as ``" great"``, or with columns in braces such as ``" {choice1}"``.
        classes: Name of each class, in the order of its number.
        label_column: Column that holds the label, as number or name of the class.
        group: Columns whose texts say together which examples belong together, such as the answers to one question.
        named: Whether the classes were given names, not called by their label words.
        other_names: What published sets call the classes instead, in the same order.
        scoring: What the log-likelihoods of a label word's tokens are combined by: ``sum``, or ``mean`` as in MeZO's
            code. It matters where words have several tokens.
    """

    label_words: tuple[str, ...]
    classes: tuple[str, ...]
    label_column: str = "label"
    group: tuple[str, ...] = ()
    named: bool = True
    other_names: tuple[str, ...] = ()
    scoring: Literal["sum", "mean"] = "sum"
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
        if len(self.classes) < 2 or len({plain(name) for name in self.classes}) != len(self.classes):
            raise ValueError(f"classes={list(self.classes)} must be at least two distinct names")
        if len(self.label_words) != len(self.classes):
            raise ValueError(
                f"label_words={list(self.label_words)} must be {len(self.classes)} words, "
                f"one for each of the classes {', '.join(self.classes)}"
            )
        if self.scoring not in ("sum", "mean"):
            raise ValueError(f"scoring={self.scoring!r} must be sum or mean")
        check_metrics(self.metrics, CLASS_METRICS)

    def changed(self, **parts: Any) -> Self:
        """See :class:`TextTask`; classes that are given are called by no other names."""
        if parts.get("classes") is not None:
            parts |= {"named": True, "other_names": ()}
        return super().changed(**parts)

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
        number = _NUMBER.fullmatch(text)
        text = text if number is None else number[1]
        for names in (self.classes, self.other_names):
            known = [plain(name) for name in names]
            if plain(text) in known:
                return known.index(plain(text))
        # what is called by a number is not numbered otherwise
        numbered = not any(_NUMBER.fullmatch(name.strip()) for name in self.classes)
        if numbered and number is not None and int(text) < len(self.classes):
            return int(text)
        numbers = f"0 to {len(self.classes) - 1} or " if numbered else ""
        raise ValueError(f"{place}: {self.label_column}={text!r} must be {numbers}one of {', '.join(self.classes)}")

    def label_places(self, names: Sequence[str], source: str) -> tuple[int, ...] | None:
        """Which classes the labels 0, 1, ... of a source are that has names for them.

        Args:
            names: The names, in the order of their numbers there.
            source: What the source is called in messages.

        Returns:
            The place of each among the classes; None if that is its own number.

        Raises:
            ValueError: If they are other classes.
        """
        if len(names) != len(self.classes):
            raise ValueError(
                f"{source} has {len(names)} classes ({', '.join(names)}), the task {self.name!r} {len(self.classes)} "
                f"({', '.join(self.classes)})"
            )
        for ours in (self.classes, self.other_names):
            found = places(names, ours)
            if found is not None:
                return None if found == tuple(range(len(names))) else found
        if self.named and says_something(names) and says_something(self.classes):
            raise ValueError(
                f"{source} has the classes {', '.join(names)}, the task {self.name!r} {', '.join(self.classes)}: name "
                "them as the data do, in the order of their numbers, by classes"
            )
        return None
