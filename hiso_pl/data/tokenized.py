"""Examples that are token ids already, stored end to end and padded only when a batch is made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hiso_pl.data.examples import Batch, ExampleSet, arrays_fingerprint


class TokenizedExamples(ExampleSet):
    """Sequences of token ids with a label each.

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
        sequences: Sequence[Sequence[int]],
        labels: Sequence[int],
        classes: tuple[str, ...],
        padding: int,
        segments: Sequence[Sequence[int]] | None = None,
        label_words: Sequence[int] | None = None,
    ) -> None:
        self.labels = np.asarray(labels, dtype=np.int64)
        self.classes = classes
        self.padding = padding
        self.lengths = np.fromiter((len(sequence) for sequence in sequences), dtype=np.int64, count=len(sequences))
        self._starts = np.cumsum(self.lengths) - self.lengths
        self._tokens = _end_to_end(sequences)
        self._segments = None if segments is None else _end_to_end(segments)
        self._label_words = None if label_words is None else np.asarray(label_words, dtype=np.int64)
        self._multiple = 1
        self._most = int(self.lengths.max(initial=0))

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
        """The token ids of one example."""
        start = self._starts[index]
        return self._tokens[start : start + self.lengths[index]].tolist()

    @property
    def largest_token(self) -> int:
        """The largest token id that a model will be given."""
        words = [] if self._label_words is None else self._label_words.tolist()
        return max(int(self._tokens.max(initial=0)), self.padding, *words)

    def collate(self, indices: NDArray[np.int64]) -> Batch:
        """Pads on the right to the longest of these examples, or to the multiple that follows.

        Returns:
            ``input_ids`` and ``attention_mask``, shape ``[B, T]``; ``label``, shape ``[B]``; with segments
            ``token_type_ids``, shape ``[B, T]``; with label words ``answer_position``, shape ``[B]``, the last
            token of each prompt, and ``label_words``, shape ``[C]``. All int64.
        """
        lengths = self.lengths[indices]
        mask = np.arange(self._width(int(lengths.max(initial=0)))) < lengths[:, None]  # [B, T]
        spans = zip(self._starts[indices], lengths, strict=True)
        places = np.concatenate([np.arange(start, start + n) for start, n in spans])
        batch = {
            "input_ids": _padded(self._tokens[places], mask, self.padding),
            "attention_mask": mask.astype(np.int64),
            "label": self.labels[indices],
        }
        if self._segments is not None:
            batch["token_type_ids"] = _padded(self._segments[places], mask, 0)
        if self._label_words is not None:
            batch["answer_position"] = lengths - 1
            batch["label_words"] = self._label_words.copy()
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def fingerprint(self) -> str:
        """See :class:`ExampleSet`."""
        names = np.frombuffer("\0".join(self.classes).encode(), dtype=np.uint8)
        absent = np.zeros(0, dtype=np.int64)
        # padding changes a loss's last bits; without multiples the fingerprint is what it was before there were any
        buckets = [] if self._multiple == 1 else [np.array([self._multiple, self._most], dtype=np.int64)]
        return arrays_fingerprint(
            self._tokens,
            self.lengths,
            self.labels,
            names,
            np.array([self.padding], dtype=np.int64),
            absent if self._segments is None else self._segments,
            absent if self._label_words is None else self._label_words,
            *buckets,
        )

    def _width(self, longest: int) -> int:
        """The length that examples are padded to, the longest of which has ``longest`` tokens."""
        return max(longest, min(-(-longest // self._multiple) * self._multiple, self._most))


def _end_to_end(sequences: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    return np.fromiter((token for sequence in sequences for token in sequence), dtype=np.int32)


def _padded(values: NDArray[np.int32], mask: NDArray[np.bool_], padding: int) -> NDArray[np.int64]:
    """Lays values end to end into the places of a mask, row by row, shape ``[B, T]``."""
    out = np.full(mask.shape, padding, dtype=np.int64)
    out[mask] = values
    return out
