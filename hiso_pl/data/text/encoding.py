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
from hiso_pl.data.tasks import ClassificationTask, GenerationTask, TextTask
from hiso_pl.data.text.prompts import (
    Limit,
    answer_tokens,
    candidate_tokens,
    cut_to_fit,
    label_word_tokens,
    stop_tokens,
)
from hiso_pl.data.text.reading import Reading, Rows, read_rows
from hiso_pl.data.text.tokenizing import Tokenizer, encode_texts, padding_token, tokenize
from hiso_pl.data.tokenized import Ragged, TokenizedExamples, TokenSequences
from hiso_pl.data.values import Blanks


def encode_prompts(tokenizer: Tokenizer, task: TextTask, rows: Rows, limit: Limit, blanks: Blanks = "refuse") -> Arrays:
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
        blanks: What is done with rows that have a blank: :mod:`hiso_pl.data.values`.

    Returns:
        ``rows``, the positions of those kept, ``tokens``, ``lengths``, ``labels``, ``cut`` and for a task that has them
        ``groups``, with either ``label_words`` (one token each), or ``candidates`` and ``candidate_lengths``, or
        ``answers``, ``answer_lengths``, ``answer_cut``, ``references`` (JSON) and ``stop_tokens``.

    Raises:
        ValueError: If a row is not as the task needs it, or cannot be made short enough.
    """
    read = read_rows(task, rows, blanks)
    strings = [task.prompt(text) for text in read.texts]
    prompts = tokenize(tokenizer, strings)
    # what says nothing to the tokenizer leaves the prompt that all columns leave which are empty
    [nothing] = tokenize(tokenizer, [task.prompt(dict.fromkeys((*task.columns, *task.answer_columns), ""))])
    read.drop([i for i, prompt in enumerate(prompts) if prompt == nothing], blanks, strings, prompts)
    arrays: Arrays = {**read.arrays()}
    texts, places = read.texts, read.places
    after: NDArray[np.int64]
    if isinstance(task, ClassificationTask):
        words = (
            label_word_tokens(tokenizer, task)
            if task.constant
            else candidate_tokens(tokenizer, task, texts, prompts, places)
        )
        longest = np.array([len(word) for word in words], dtype=np.int64).reshape(-1, len(task.classes)).max(axis=1)
        after = np.broadcast_to(longest - 1, (len(texts),))
        if task.constant and longest[0] == 1:
            arrays["label_words"] = np.array(words, dtype=np.int64)[:, 0]
        else:
            _put(arrays, "candidates", "candidate_lengths", words)
    else:
        assert isinstance(task, GenerationTask)
        arrays |= _encode_answers(tokenizer, task, read, strings, prompts)
        after = np.full(len(texts), task.max_new_tokens, dtype=np.int64)
    arrays["cut"] = cut_to_fit(tokenizer, task, texts, prompts, after, limit, places).astype(np.uint8)
    _put(arrays, "tokens", "lengths", prompts)
    return arrays


def _encode_answers(
    tokenizer: Tokenizer, task: GenerationTask, read: Reading, strings: list[str], prompts: list[list[int]]
) -> Arrays:
    added = [task.continuation(answers) for answers in read.references]
    answers = answer_tokens(tokenizer, task, strings, prompts, added, read.places)
    most = task.max_new_tokens + 1  # an answer's end is learnt even where no more is generated before it
    arrays: Arrays = {
        "answer_cut": np.array([len(tokens) > most for tokens in answers], dtype=np.uint8),
        "references": np.frombuffer(json.dumps(read.references).encode(), dtype=np.uint8),
        "stop_tokens": np.array(stop_tokens(tokenizer, task), dtype=np.int64),
    }
    _put(arrays, "answers", "answer_lengths", [tokens[:most] for tokens in answers])
    return arrays


def encode_sentences(
    tokenizer: Tokenizer, task: ClassificationTask, rows: Rows, limit: Limit, blanks: Blanks = "refuse"
) -> Arrays:
    """Tokenises the columns of the template as a text or a pair; a pair that is too long is cut at its longer text.

    The cut is the tokenizer's own, at a token.

    Args:
        tokenizer: The tokenizer.
        task: The task.
        rows: The rows.
        limit: Most tokens of an example, special ones included.
        blanks: What is done with rows that have a blank: :mod:`hiso_pl.data.values`.

    Returns:
        ``rows``, the positions of those kept, ``tokens``, ``lengths``, ``labels``, ``cut``, for a task that has them
        ``groups`` and, for tokenizers that have them, ``segments``.

    Raises:
        ValueError: If a row is not as the task needs it, or the limit leaves nothing of a text.
    """
    read = read_rows(task, rows, blanks)
    columns = [[text[column] for text in read.texts] for column in task.columns]
    ids, segments = encode_texts(tokenizer, *columns)
    bare = encode_texts(tokenizer, *([""] for _ in columns))[0][0]
    silent = [i for i, tokens in enumerate(ids) if len(tokens) <= len(bare)]
    read.drop(silent, blanks, ids, *columns, *([] if segments is None else [segments]))
    long = [i for i, tokens in enumerate(ids) if len(tokens) > limit.tokens]
    if long:
        if limit.tokens <= len(bare):
            raise limit.exceeded(read.places[long[0]], len(bare) + 1, "the special tokens and one of the text")
        some = [[column[i] for i in long] for column in columns]
        short = tokenizer(*some, padding=False, truncation=True, max_length=limit.tokens, verbose=False)
        for place, i in enumerate(long):
            ids[i] = short["input_ids"][place]
            if segments is not None:
                segments[i] = short["token_type_ids"][place]
    arrays: Arrays = {**read.arrays(), "cut": np.zeros(len(ids), dtype=np.uint8)}
    arrays["cut"][long] = 1
    _put(arrays, "tokens", "lengths", ids)
    if segments is not None:
        arrays["segments"] = Ragged.of(segments).values
    return arrays


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
    if "groups" in arrays:  # each set has numbered its own from 0
        before = np.cumsum([0, *(table["groups"].max(initial=-1) + 1 for table in tables)])[:-1]
        arrays["groups"] += np.repeat(before, [len(table["groups"]) for table in tables])
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
            task.separator,
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
    examples.groups = arrays.get("groups")
    examples.left_out = int(arrays["left_out"].sum()) if "left_out" in arrays else 0
    examples.columns = {name[7:]: np.array(a) for name, a in arrays.items() if name.startswith("column:")}
    # a partial, not a function of our own: loaders may pass examples on to another process
    examples.decode = partial(tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return examples


def _put(arrays: Arrays, values: str, lengths: str, sequences: Sequence[Sequence[int]]) -> None:
    ragged = Ragged.of(sequences)
    arrays[values], arrays[lengths] = ragged.values, ragged.lengths
