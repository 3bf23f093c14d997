"""Prompts whose classes are told apart by several tokens, or by texts of the example's own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from hiso_pl.data.examples import Batch, arrays_fingerprint
from hiso_pl.data.tokenized import Ragged, TokenSequences, names_array


class CandidateExamples(TokenSequences):
    r"""Prompts, each with a candidate of some tokens for every class.

    The score of candidate :math:`c` is the log-likelihood of all its tokens :math:`w_1 \dots w_n` after the prompt
    :math:`x`,

    .. math:: score_c = \sum_{l=1}^{n} \log p(w_l \mid x, w_1, \dots, w_{l-1})

    The logits of a position do not depend on what follows it, so candidates share a row of the batch where one needs
    no more than the beginning of what another needs: `` Yes`` of two tokens and `` No`` of one take a single row. A
    candidate's last token is never put in, as nothing is asked after it.

    Args:
        sequences: Token ids of each prompt.
        labels: The class of each example.
        classes: Name of each class.
        padding: Token id that fills a batch up; the attention mask hides it.
        candidates: Token ids of the candidates, example by example and in the order of the classes, ``N * C`` of them,
            or ``C`` that all examples have in common.
        mean: Whether that sum is divided by the number of tokens :math:`n`.
    """

    def __init__(
        self,
        sequences: Sequence[Sequence[int]] | Ragged,
        labels: Sequence[int] | NDArray[np.int64],
        classes: tuple[str, ...],
        padding: int,
        candidates: Sequence[Sequence[int]] | Ragged,
        mean: bool = False,
    ) -> None:
        super().__init__(sequences, labels, classes, padding)
        self.all_candidates = Ragged.of(candidates)
        self.mean = mean
        lengths = self.all_candidates.lengths.reshape(-1, len(classes))  # [1 or N, C]
        self._common = len(lengths) == 1 and len(self.labels) != 1
        if len(lengths) not in (1, len(self.labels)):
            raise ValueError(
                f"candidates={lengths.size} must be {len(classes)}, or that for each of {len(self.labels)} examples"
            )
        self.lengths = self.sequences.lengths + lengths.max(axis=1) - 1

    def candidates(self, index: int) -> list[NDArray[np.int32]]:
        """The token ids of one example's candidates, by class."""
        first = 0 if self._common else index * len(self.classes)
        return [self.all_candidates[first + c] for c in range(len(self.classes))]

    @property
    def largest_token(self) -> int:
        """See :class:`TokenSequences`."""
        arrays = (self.sequences.values, self.all_candidates.values)
        return max(self.padding, *(int(values.max(initial=0)) for values in arrays))

    def collate(self, indices: NDArray[np.int64]) -> Batch:
        """Makes the rows of these examples and pads them to the longest, or to the multiple that follows.

        Returns:
            ``input_ids`` and ``attention_mask``, shape ``[R, T]``; ``answer_positions``, shape ``[R, L]``, the place
            whose logits tell the row's l-th token after the prompt; ``candidate_rows``, shape ``[B, C]``;
            ``candidate_tokens`` and ``candidate_mask``, shape ``[B, C, L]``; ``label``, shape ``[B]``; where scores
            are means ``candidate_lengths``, shape ``[B, C]``. All int64.
        """
        rows: list[NDArray[np.int32]] = []
        lasts: list[int] = []  # of each row, the last token of its prompt
        where: list[list[int]] = []
        texts: list[list[NDArray[np.int32]]] = []
        for index in indices.tolist():
            prompt, own = self.sequences[index], self.candidates(index)
            tails, rows_of = self._common_rows if self._common else shared_rows(own)
            where.append([len(rows) + row for row in rows_of])
            texts.append(own)
            for tail in tails:
                rows.append(np.concatenate([prompt, np.array(tail, dtype=np.int32)]))
                lasts.append(len(prompt) - 1)
        longest = max(len(tokens) for own in texts for tokens in own)
        lengths = np.array([[len(tokens) for tokens in own] for own in texts], dtype=np.int64)  # [B, C]
        mask = np.arange(longest) < lengths[..., None]
        tokens = np.zeros(mask.shape, dtype=np.int64)
        tokens[mask] = np.concatenate([tokens for own in texts for tokens in own])
        input_ids, real, starts = self.padded(rows, self.padding)
        batch = {
            "input_ids": input_ids,
            "attention_mask": real.astype(np.int64),
            "answer_positions": answer_positions(starts, np.array(lasts), real.sum(axis=1), longest),
            "candidate_rows": np.array(where, dtype=np.int64),
            "candidate_tokens": tokens,
            "candidate_mask": mask.astype(np.int64),
            "label": self.labels[indices],
            **({"candidate_lengths": lengths} if self.mean else {}),
        }
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def fingerprint(self) -> str:
        """See :class:`ExampleSet`."""
        return arrays_fingerprint(
            names_array(["candidates"]),
            self.sequences.values,
            self.sequences.lengths,
            self.labels,
            names_array(self.classes),
            np.array([self.padding], dtype=np.int64),
            self.all_candidates.values,
            self.all_candidates.lengths,
            *([names_array(["mean"])] if self.mean else []),
            *self.padding_arrays(),
        )

    @cached_property
    def _common_rows(self) -> tuple[list[tuple[int, ...]], list[int]]:
        return shared_rows(self.candidates(0))


def shared_rows(candidates: Sequence[Sequence[int] | NDArray[np.int32]]) -> tuple[list[tuple[int, ...]], list[int]]:
    """Finds the fewest rows that tell the logits of all tokens of some candidates.

    Args:
        candidates: Token ids of each candidate, C of them.

    Returns:
        What follows the prompt in each row, and the row of each candidate.
    """
    needed = [tuple(int(token) for token in candidate[:-1]) for candidate in candidates]
    rows: list[tuple[int, ...]] = []
    for tail in sorted(set(needed), key=lambda tail: (-len(tail), tail)):
        if not any(row[: len(tail)] == tail for row in rows):
            rows.append(tail)
    return rows, [next(r for r, row in enumerate(rows) if row[: len(tail)] == tail) for tail in needed]


def answer_positions(
    starts: NDArray[np.int64], lasts: NDArray[np.int64], lengths: NDArray[np.int64], longest: int
) -> NDArray[np.int64]:
    """The places in padded rows whose logits tell the tokens after the prompt.

    Args:
        starts: Where each row begins, shape ``[R]``.
        lasts: Place of the prompt's last token in each row, counted from there, shape ``[R]``.
        lengths: Length of each row, shape ``[R]``.
        longest: Tokens of the longest answer, L.

    Returns:
        Positions, shape ``[R, L]``; beyond the end of a row its last one.
    """
    places = np.minimum(lasts[:, None] + np.arange(longest), lengths[:, None] - 1)
    return starts[:, None] + places
