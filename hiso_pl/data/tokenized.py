"""Examples that are token ids already, stored end to end and padded only when a batch is made."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hiso_pl.data.examples import Batch, ExampleSet, arrays_fingerprint
from hiso_pl.data.measures import ClassMeasure, Measure

PaddingSide = Literal["right", "left"]

Decode = Callable[[list[int]], str]
"""Makes text of token ids, leaving special tokens out."""


class Ragged:
    """Sequences of different lengths, end to end in one array.

    Args:
        values: Their token ids, int32, shape ``[sum of lengths]``.
        lengths: Length of each sequence, int64, shape ``[N]``.
    """

    def __init__(self, values: NDArray[np.int32], lengths: NDArray[np.int64]) -> None:
        self.values = values
        self.lengths = lengths
        self._starts = np.cumsum(lengths) - lengths

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]] | Ragged) -> Ragged:
        """Lays sequences end to end; what is so already is returned as it is."""
        if isinstance(sequences, Ragged):
            return sequences
        lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
        return cls(np.fromiter(chain.from_iterable(sequences), dtype=np.int32, count=int(lengths.sum())), lengths)

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        """One sequence, shape ``[length]``."""
        start = self._starts[index]
        return self.values[start : start + self.lengths[index]]


class TokenSequences(ExampleSet):
    """What sets of token sequences have in common: how they are padded, and what is known of them.

    Args:
        sequences: Token ids of each example, up to where an answer begins if there is one.
        labels: The class of each example.
        classes: Name of each class.
        padding: Token id that fills a batch up; the attention mask hides it.

    Raises:
        ValueError: If an example has no token: what a model would say of it is of the padding around it.

    Attributes:
        lengths: Tokens of each example as the model is given it, shape ``[N]``.
        padding_side: Where batches are filled up.
        metrics: Names of the metrics to take.
        decode: Makes text of tokens, where that is known.
        groups: Number of the question that an example answers, where examples answer some, shape ``[N]``.
        cut: Whether an example lost text because it was too long, shape ``[N]``.
        columns: Codes of the columns that were kept, by name of the column, shape ``[N]`` each.
        left_out: Rows that were left out, as they had a blank.
    """

    lengths: NDArray[np.int64]
    padding_side: PaddingSide = "right"
    metrics: tuple[str, ...] = ("accuracy",)
    decode: Decode | None = None
    groups: NDArray[np.int64] | None = None
    cut: NDArray[np.bool_]
    columns: Mapping[str, NDArray[np.int64]]
    left_out: int = 0

    def __init__(
        self,
        sequences: Sequence[Sequence[int]] | Ragged,
        labels: Sequence[int] | NDArray[np.int64],
        classes: tuple[str, ...],
        padding: int,
    ) -> None:
        self.labels = np.array(labels, dtype=np.int64)
        self.classes = classes
        self.padding = padding
        self.sequences = Ragged.of(sequences)
        self.lengths = self.sequences.lengths
        if self.lengths.min(initial=1) < 1:
            raise ValueError(f"example {int(self.lengths.argmin())} has 0 tokens, must have at least 1")
        self.cut = np.zeros(len(self.labels), dtype=np.bool_)
        self.columns = {}
        self._multiple = 1
        self._most = 0

    def pad_to_multiples(self, multiple: int, most: int) -> None:
        """Lets batches have few lengths instead of any, for code that is made for a length.

        Args:
            multiple: Batches are padded to the next multiple of this; 1 pads to the longest example only.
            most: No batch is made longer than this for it, as where the model's positions end.

        Raises:
            ValueError: If ``multiple`` is below 1.
        """
        if multiple < 1:
            raise ValueError(f"pad_to_multiple_of={multiple} must be at least 1")
        self._multiple, self._most = multiple, most

    def tokens(self, index: int) -> list[int]:
        """The token ids of one example, up to where an answer begins if there is one."""
        return self.sequences[index].tolist()

    @property
    @abstractmethod
    def largest_token(self) -> int:
        """The largest token id that a model will be given."""

    @property
    def measure(self) -> Measure:
        """See :class:`ExampleSet`."""
        return ClassMeasure(self.labels, self.classes, self.metrics, self.groups)

    def text(self, index: int) -> str | None:
        """The text of an example's tokens, without special ones."""
        return None if self.decode is None else self.decode(self.tokens(index))

    @property
    def attributes(self) -> dict[str, NDArray[np.int64]]:
        """See :class:`ExampleSet`."""
        kept = {f"column:{name}": codes for name, codes in self.columns.items()}
        return {"label": self.labels, "length": self.lengths, **kept}

    def padded(
        self, rows: Sequence[NDArray[np.int32]], fill: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
        """Lays rows of different lengths into one array.

        Args:
            rows: The rows, R of them.
            fill: What stands where a row has nothing.

        Returns:
            The array and its mask, shape ``[R, T]``, and the place where each row begins, shape ``[R]``.
        """
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        longest = int(lengths.max(initial=0))
        width = max(longest, min(-(-longest // self._multiple) * self._multiple, self._most))
        starts = width - lengths if self.padding_side == "left" else np.zeros_like(lengths)
        places = np.arange(width)
        mask = (places >= starts[:, None]) & (places < (starts + lengths)[:, None])
        values = np.full(mask.shape, fill, dtype=np.int64)
        values[mask] = np.concatenate(rows)
        return values, mask, starts

    def padding_arrays(self) -> list[NDArray[np.int64]]:
        """What a fingerprint says of unusual padding, which changes a loss's last bits; nothing of the usual."""
        buckets = [] if self._multiple == 1 else [np.array([self._multiple, self._most], dtype=np.int64)]
        return buckets if self.padding_side == "right" else [*buckets, np.array([-1], dtype=np.int64)]


class TokenizedExamples(TokenSequences):
    """Sequences of token ids with a label each, each class one label word where they are prompts.

    Args:
        sequences: Token ids of each example.
        labels: The class of each example.
        classes: Name of each class.
        padding: Token id that fills a batch up; the attention mask hides it.
        segments: Segment of each token, where the model tells the texts of a pair apart by it.
        label_words: Token id that stands for each class, where the sequences are prompts.
    """

    def __init__(
        self,
        sequences: Sequence[Sequence[int]] | Ragged,
        labels: Sequence[int] | NDArray[np.int64],
        classes: tuple[str, ...],
        padding: int,
        segments: Sequence[Sequence[int]] | Ragged | None = None,
        label_words: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> None:
        super().__init__(sequences, labels, classes, padding)
        self._segments = None if segments is None else Ragged.of(segments)
        self._label_words = None if label_words is None else np.array(label_words, dtype=np.int64)

    @property
    def largest_token(self) -> int:
        """See :class:`TokenSequences`."""
        words = [] if self._label_words is None else self._label_words.tolist()
        return max(int(self.sequences.values.max(initial=0)), self.padding, *words)

    def collate(self, indices: NDArray[np.int64]) -> Batch:
        """Pads to the longest of these examples, or to the multiple that follows.

        Returns:
            ``input_ids`` and ``attention_mask``, shape ``[B, T]``; ``label``, shape ``[B]``; with segments
            ``token_type_ids``, shape ``[B, T]``; with label words ``answer_position``, shape ``[B]``, the last
            token of each prompt, and ``label_words``, shape ``[C]``. All int64.
        """
        input_ids, mask, starts = self.padded([self.sequences[i] for i in indices], self.padding)
        batch = {"input_ids": input_ids, "attention_mask": mask.astype(np.int64), "label": self.labels[indices]}
        if self._segments is not None:
            batch["token_type_ids"] = self.padded([self._segments[i] for i in indices], 0)[0]
        if self._label_words is not None:
            batch["answer_position"] = starts + self.lengths[indices] - 1
            batch["label_words"] = self._label_words.copy()
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def fingerprint(self) -> str:
        """See :class:`ExampleSet`."""
        absent = np.zeros(0, dtype=np.int64)
        return arrays_fingerprint(
            self.sequences.values,
            self.lengths,
            self.labels,
            names_array(self.classes),
            np.array([self.padding], dtype=np.int64),
            absent if self._segments is None else self._segments.values,
            absent if self._label_words is None else self._label_words,
            *self.padding_arrays(),
        )


def names_array(names: Sequence[str]) -> NDArray[np.uint8]:
    """Names as bytes, for a fingerprint."""
    return np.frombuffer("\0".join(names).encode(), dtype=np.uint8)
