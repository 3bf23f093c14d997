"""Prompts with an answer of free text: learnt token by token, and measured on what the model writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from hiso_pl.data.candidates import answer_positions
from hiso_pl.data.examples import Batch, arrays_fingerprint
from hiso_pl.data.measures import Measure, TextMeasure
from hiso_pl.data.text_metrics import Spans
from hiso_pl.data.tokenized import Ragged, TokenSequences, names_array


class AnswerExamples(TokenSequences):
    r"""Prompts, each with the answer to learn and those to compare a generated text with.

    The loss is the mean over the :math:`n` tokens of the answer :math:`w`, its end included, after the prompt
    :math:`x`; prompt and padding have no part in it.

    .. math:: loss = -\frac{1}{n} \sum_{l=1}^{n} \log p(w_l \mid x, w_1, \dots, w_{l-1})

    Args:
        sequences: Token ids of each prompt.
        padding: Token id that fills a batch up; the attention mask hides it.
        answers: Token ids of the answer to each prompt, with what ends it.
        references: All right answers of each example, as JSON: a list of lists of texts, or of lists of texts where an
            answer has several spans.
        stop_tokens: Token ids that end a generation.
        stop: Text that ends an answer.
        max_new_tokens: Most tokens to generate.
        separator: What stands between the spans of an answer that has several; ``""`` where none has.

    Attributes:
        answer_cut: Whether an answer was too long to be learnt whole, shape ``[N]``.
    """

    answer_cut: NDArray[np.bool_]

    def __init__(
        self,
        sequences: Sequence[Sequence[int]] | Ragged,
        padding: int,
        answers: Sequence[Sequence[int]] | Ragged,
        references: bytes,
        stop_tokens: Sequence[int] | NDArray[np.int64],
        stop: str,
        max_new_tokens: int,
        separator: str = "",
    ) -> None:
        prompts = Ragged.of(sequences)
        super().__init__(prompts, np.zeros(len(prompts.lengths), dtype=np.int64), (), padding)
        self.answers = Ragged.of(answers)
        self.lengths = prompts.lengths + self.answers.lengths - 1
        self.answer_cut = np.zeros(len(self.labels), dtype=np.bool_)
        self.stop_tokens = np.array(stop_tokens, dtype=np.int64)
        self.stop = stop
        self.max_new_tokens = max_new_tokens
        self.separator = separator
        self._references = references

    @cached_property
    def references(self) -> list[tuple[Spans, ...]]:
        """The right answers of each example; one of several spans is a tuple."""
        found = json.loads(self._references)
        return [tuple(a if isinstance(a, str) else tuple(a) for a in answers) for answers in found]

    @property
    def measure(self) -> Measure:
        """See :class:`ExampleSet`.

        Raises:
            ValueError: If nothing is there to decode tokens with.
        """
        if self.decode is None:
            raise ValueError("decode=None must be set to what makes text of token ids before answers can be measured")
        return TextMeasure(self.references, self.decode, self.stop, self.metrics, self.separator)

    @property
    def largest_token(self) -> int:
        """See :class:`TokenSequences`."""
        arrays = (self.sequences.values, self.answers.values)
        return max(self.padding, *(int(values.max(initial=0)) for values in arrays))

    def collate(self, indices: NDArray[np.int64]) -> Batch:
        """Makes a row of prompt and answer of each example; an answer's last token is told, but never put in.

        Returns:
            ``input_ids`` and ``attention_mask``, shape ``[B, T]``; ``answer_positions``, shape ``[B, L]``, the place
            whose logits tell the l-th token of the answer, the first being the prompt's last token;
            ``answer_tokens`` and ``answer_mask``, shape ``[B, L]``; ``label``, zeros of shape ``[B]``;
            ``stop_tokens``, shape ``[S]``; ``max_new_tokens``, of no dimension. All int64.
        """
        answers = [self.answers[i] for i in indices]
        lengths = self.answers.lengths[indices]
        mask = np.arange(int(lengths.max(initial=1))) < lengths[:, None]  # [B, L]
        tokens = np.zeros(mask.shape, dtype=np.int64)
        tokens[mask] = np.concatenate(answers)
        rows = [np.concatenate([self.sequences[i], a[:-1]]) for i, a in zip(indices, answers, strict=True)]
        input_ids, real, starts = self.padded(rows, self.padding)
        lasts = self.sequences.lengths[indices] - 1
        batch = {
            "input_ids": input_ids,
            "attention_mask": real.astype(np.int64),
            "answer_positions": answer_positions(starts, lasts, real.sum(axis=1), mask.shape[1]),
            "answer_tokens": tokens,
            "answer_mask": mask.astype(np.int64),
            "label": self.labels[indices],
            "stop_tokens": self.stop_tokens.copy(),
            "max_new_tokens": np.array(self.max_new_tokens, dtype=np.int64),
        }
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def fingerprint(self) -> str:
        """See :class:`ExampleSet`; the references are in it, as metrics come of them."""
        return arrays_fingerprint(
            names_array(["answers", self.stop, *([self.separator] if self.separator else [])]),
            self.sequences.values,
            self.sequences.lengths,
            np.array([self.padding, self.max_new_tokens], dtype=np.int64),
            self.answers.values,
            self.answers.lengths,
            self.stop_tokens,
            np.frombuffer(self._references, dtype=np.uint8),
            *self.padding_arrays(),
        )
