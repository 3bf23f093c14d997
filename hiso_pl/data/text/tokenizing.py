"""Texts as token ids, whatever the tokenizer: fast or plain Python, and however it was saved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import tokenizers

from hiso_pl.data.facts import ModelFacts
from hiso_pl.models.tokenizer import load_tokenizer

Tokenizer = Any
"""A tokenizer of transformers; named so that this module can be imported without it."""

CHUNK = 4096  # texts tokenised at a time: what the tokenizer says of each beyond its ids need not be kept for all


def find_tokenizer(named: str | None, facts: ModelFacts) -> Tokenizer:
    """The tokenizer of an option, or else the model's.

    Raises:
        ValueError: If there is none.
    """
    if named is not None:
        return load_tokenizer(named)
    if facts.tokenizer_source is None:
        raise ValueError("tokenizer=None must be a folder or a name on the hub, as the model brings no tokenizer")
    return load_tokenizer(facts.tokenizer_source, facts.tokenizer_revision, facts.tokenizer_trusted)


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of texts, without what a tokenizer may put at the end of one."""
    if not texts:
        return []
    appended = appended_tokens(tokenizer)
    ids, _ = encode_texts(tokenizer, texts)
    return [sequence[: len(sequence) - appended] for sequence in ids] if appended else ids


def encode_texts(tokenizer: Tokenizer, *columns: Sequence[str]) -> tuple[list[list[int]], list[list[int]] | None]:
    """The token ids of texts or of pairs of them, whole and with special tokens.

    Args:
        tokenizer: The tokenizer.
        columns: The texts, or the first and the second texts of pairs.

    Returns:
        The ids and, where the tokenizer tells the texts of a pair apart, the segment of each token.
    """
    ids: list[list[int]] = []
    segments: list[list[int]] = []
    for start in range(0, len(columns[0]), CHUNK):
        some = [list(column[start : start + CHUNK]) for column in columns]
        found = _by_backend(tokenizer, some)
        if found is None:
            called = tokenizer(*some, padding=False, truncation=False, verbose=False)
            found = called["input_ids"], called.get("token_type_ids") or []
        ids += found[0]
        segments += found[1]
    return ids, segments or None


def _by_backend(tokenizer: Tokenizer, columns: list[list[str]]) -> tuple[list[list[int]], list[list[int]]] | None:
    """The same by a fast tokenizer's own backend, in half the time; None where a first text gives something else."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "encode_batch_fast"):
        return None
    # this call also sets the backend neither to pad nor to truncate
    first = tokenizer(*(column[:1] for column in columns), padding=False, truncation=False, verbose=False)
    encodings = backend.encode_batch_fast(list(zip(*columns, strict=True)) if len(columns) > 1 else columns[0])
    if encodings[0].ids != first["input_ids"][0]:
        return None
    if "token_type_ids" not in first:
        return [encoding.ids for encoding in encodings], []
    if encodings[0].type_ids != first["token_type_ids"][0]:
        return None
    return [encoding.ids for encoding in encodings], [encoding.type_ids for encoding in encodings]


def appended_tokens(tokenizer: Tokenizer) -> int:
    """How many tokens, such as an end of sequence, a tokenizer puts after a text."""
    plain = tokenizer("a", add_special_tokens=False).input_ids
    whole = tokenizer("a").input_ids
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return len(whole) - len(plain) - start
    return 0


def padding_token(tokenizer: Tokenizer) -> int:
    """A token id to fill batches with. It never reaches a result, so any will do where none is set."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def tokenizer_identity(tokenizer: Tokenizer) -> str | None:
    """SHA-256 over all that a tokenizer makes tokens by, wherever it was loaded from.

    Returns:
        Hexadecimal digits; None for tokenizers in plain Python, which cannot be written down as a whole.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if not hasattr(backend, "to_str"):
        return None
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    told = [backend.to_str(), special, type(tokenizer).__name__, tokenizers.__version__]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
