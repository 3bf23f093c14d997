"""From rows of text to arrays of tokens, which a cache can keep, and from those to examples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hiso_pl.data.answers import AnswerExamples
from hiso_pl.data.cache import Arrays
from hiso_pl.data.candidates import CandidateExamples
from hiso_pl.data.limits import Row
from hiso_pl.data.tasks import ClassificationTask, GenerationTask, TextTask
from hiso_pl.data.text.prompts import (
    Limit,
    answer_tokens,
    candidate_tokens,
    cut_to_fit,
    label_word_tokens,
    stop_tokens,
)
from hiso_pl.data.text.tokenizing import Tokenizer, encode_texts, padding_token, tokenize
from hiso_pl.data.tokenized import Ragged, TokenizedExamples, TokenSequences, names_array

Rows = Sequence[tuple[str, Row]]
"""Rows, each with its place for messages."""


def encode_prompts(tokenizer: Tokenizer, task: TextTask, rows: Rows, limit: Limit) -> Arrays:
    """Makes prompts of rows and tokenises them, with what may follow each.

    A prompt is tokenised as a whole, since tokens may cross the seam between text and template. What follows it is
    what the tokenizer makes of both beyond the prompt. Prompts that are too long are cut afterwards.

    Args:
        tokenizer: The tokenizer.
        task: The task.
        rows: The rows.
        limit: Most tokens that the model is given of an example: the prompt, and what follows it but for the last
            token, after which nothing is asked. A prompt for generation leaves room for as many tokens as may be
            generated.

    Returns:
        ``tokens``, ``lengths``, ``labels`` and ``cut``, with either ``label_words`` (one token each), or
        ``candidates`` and ``candidate_lengths``, or ``answers``, ``answer_lengths``, ``answer_cut``, ``references``
        (JSON) and ``stop_tokens``.

    Raises:
        ValueError: If a row is not as the task needs it, or cannot be made short enough.
    """
    places = [place for place, _ in rows]
    texts = [task.texts(row, place) for place, row in rows]
    arrays: Arrays = {"labels": np.zeros(len(rows), dtype=np.int64)}
    if isinstance(task, ClassificationTask):
        arrays["labels"] = np.array([task.label(row, place) for place, row in rows], dtype=np.int64)
    strings = [task.prompt(text) for text in texts]
    prompts = tokenize(tokenizer, strings)
    after: NDArray[np.int64]
    if isinstance(task, ClassificationTask):
        words = (
            label_word_tokens(tokenizer, task)
            if task.constant
            else candidate_tokens(tokenizer, task, texts, prompts, places)
        )
        longest = np.array([len(word) for word in words], dtype=np.int64).reshape(-1, len(task.classes)).max(axis=1)
        after = np.broadcast_to(longest - 1, (len(rows),))
        if task.constant and longest[0] == 1:
            arrays["label_words"] = np.array(words, dtype=np.int64)[:, 0]
        else:
            _put(arrays, "candidates", "candidate_lengths", words)
    else:
        assert isinstance(task, GenerationTask)
        arrays |= _encode_answers(tokenizer, task, rows, strings, prompts)
        after = np.full(len(rows), task.max_new_tokens, dtype=np.int64)
    arrays["cut"] = cut_to_fit(tokenizer, task, texts, prompts, after, limit, places).astype(np.uint8)
    _put(arrays, "tokens", "lengths", prompts)
    return arrays


def _encode_answers(
    tokenizer: Tokenizer, task: GenerationTask, rows: Rows, strings: list[str], prompts: list[list[int]]
) -> Arrays:
    references = [task.references(row, place) for place, row in rows]
    added = [task.continuation(texts) for texts in references]
    answers = answer_tokens(tokenizer, task, strings, prompts, added, [place for place, _ in rows])
    most = task.max_new_tokens + 1  # an answer's end is learnt even where no more is generated before it
    arrays: Arrays = {
        "answer_cut": np.array([len(tokens) > most for tokens in answers], dtype=np.uint8),
        "references": np.frombuffer(json.dumps(references).encode(), dtype=np.uint8),
        "stop_tokens": np.array(stop_tokens(tokenizer, task), dtype=np.int64),
    }
    _put(arrays, "answers", "answer_lengths", [tokens[:most] for tokens in answers])
    return arrays


def encode_sentences(tokenizer: Tokenizer, task: ClassificationTask, rows: Rows, limit: Limit) -> Arrays:
    """Tokenises the columns of the template as a text or a pair; a pair that is too long is cut at its longer text.

    Args:
        tokenizer: The tokenizer.
        task: The task.
        rows: The rows.
        limit: Most tokens of an example, special ones included.

    Returns:
        ``tokens``, ``lengths``, ``labels``, ``cut`` and, for tokenizers that have them, ``segments``.

    Raises:
        ValueError: If a row is not as the task needs it.
    """
    texts = [task.texts(row, place) for place, row in rows]
    labels = [task.label(row, place) for place, row in rows]
    columns = [[text[column] for text in texts] for column in task.columns]
    ids, segments = encode_texts(tokenizer, *columns)
    long = [i for i, tokens in enumerate(ids) if len(tokens) > limit.tokens]
    if long:
        some = [[column[i] for i in long] for column in columns]
        short = tokenizer(*some, padding=False, truncation=True, max_length=limit.tokens, verbose=False)
        for place, i in enumerate(long):
            ids[i] = short["input_ids"][place]
            if segments is not None:
                segments[i] = short["token_type_ids"][place]
    arrays: Arrays = {"labels": np.array(labels, dtype=np.int64), "cut": np.zeros(len(rows), dtype=np.uint8)}
    arrays["cut"][long] = 1
    _put(arrays, "tokens", "lengths", ids)
    if segments is not None:
        arrays["segments"] = Ragged.of(segments).values
    return arrays


def column_codes(rows: Rows, column: str) -> NDArray[np.int64]:
    """The values of a column as numbers: their places among the distinct values, sorted as text.

    Raises:
        ValueError: If a row lacks the column.
    """
    for place, row in rows:
        if column not in row:
            raise ValueError(f"{place}: no column {column!r}, there are {', '.join(row)}")
    number = {value: i for i, value in enumerate(sorted({row[column] for _, row in rows}))}
    return np.array([number[row[column]] for _, row in rows], dtype=np.int64)


def columns_array(rows: Rows) -> NDArray[np.uint8]:
    """The names of all columns in which some row has a value, sorted, as bytes."""
    return names_array(sorted({column for _, row in rows for column in row}))


def joined(tables: Sequence[Arrays], task: TextTask) -> Arrays:
    """Lays the arrays of several sets of rows end to end, as if they had been one.

    Args:
        tables: As :func:`encode_prompts` or :func:`encode_sentences` gives them, one at least.
        task: The task.
    """
    common = {"label_words", "stop_tokens", "columns"}
    if isinstance(task, ClassificationTask) and task.constant:
        common |= {"candidates", "candidate_lengths"}
    arrays = dict(tables[0])
    for name in arrays.keys() - common if len(tables) > 1 else ():
        arrays[name] = np.concatenate([table[name] for table in tables])
    if "references" in arrays:  # lists as JSON
        lists = b", ".join(table["references"].tobytes()[1:-1] for table in tables)
        arrays["references"] = np.frombuffer(b"[" + lists + b"]", dtype=np.uint8)
    return arrays


def examples_of(arrays: Arrays, task: TextTask, tokenizer: Tokenizer) -> TokenSequences:
    """Makes the examples that arrays of tokens stand for.

    Args:
        arrays: As :func:`encode_prompts` or :func:`encode_sentences` gives them, with ``column:NAME`` for columns that
            were kept.
        task: The task.
        tokenizer: The tokenizer.
    """
    sequences, labels, padding = Ragged(arrays["tokens"], arrays["lengths"]), arrays["labels"], padding_token(tokenizer)
    examples: TokenSequences
    if isinstance(task, GenerationTask):
        examples = AnswerExamples(
            sequences,
            padding,
            Ragged(arrays["answers"], arrays["answer_lengths"]),
            arrays["references"].tobytes(),
            arrays["stop_tokens"],
            task.stop,
            task.max_new_tokens,
        )
        examples.answer_cut = arrays["answer_cut"].astype(np.bool_)
    else:
        assert isinstance(task, ClassificationTask)
        if "candidates" in arrays:
            candidates = Ragged(arrays["candidates"], arrays["candidate_lengths"])
            mean = task.scoring == "mean"
            examples = CandidateExamples(sequences, labels, task.classes, padding, candidates, mean)
        else:
            segments = Ragged(arrays["segments"], arrays["lengths"]) if "segments" in arrays else None
            words = arrays.get("label_words")
            examples = TokenizedExamples(sequences, labels, task.classes, padding, segments, words)
        examples.named, examples.other_names = task.named, task.other_names
    examples.metrics = task.metrics
    examples.cut = arrays["cut"].astype(np.bool_)
    examples.columns = {name[7:]: np.array(a) for name, a in arrays.items() if name.startswith("column:")}
    # a partial, not a function of our own: loaders may pass examples on to another process
    examples.decode = partial(tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return examples


def _put(arrays: Arrays, values: str, lengths: str, sequences: Sequence[Sequence[int]]) -> None:
    ragged = Ragged.of(sequences)
    arrays[values], arrays[lengths] = ragged.values, ragged.lengths
