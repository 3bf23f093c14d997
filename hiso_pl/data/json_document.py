"""Reads a JSON document: a list of rows, or the rows that a set's published file holds under a name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from hiso_pl.bounds import JSON_DOCUMENT_BYTES, JSON_VALUE_BYTES
from hiso_pl.data.limits import ReadLimits, Row
from hiso_pl.data.values import text_values


def document_rows(name: str, file: BinaryIO, limits: ReadLimits) -> Iterator[tuple[int, Row]]:
    """The entries of a document, each with its number, counted from 0.

    They are the items of a list; those of a mapping's list ``data``, as SQuAD has it; or the mappings that a mapping
    holds by name, as DROP has it.

    Args:
        name: What messages call the document.
        file: The document.
        limits: What it may ask for.

    Raises:
        ValueError: If it is no such document, or asks for too much.
    """
    data = file.read(min(limits.bytes, JSON_DOCUMENT_BYTES) + 1)
    limits.check_bytes(f"{name} has", len(data))
    if len(data) > JSON_DOCUMENT_BYTES:
        raise ValueError(
            f"{name} has over {JSON_DOCUMENT_BYTES} bytes, must be .jsonl, one object a line, to have more"
        )
    # before it is made into objects: each needs a bracket, a brace or a comma
    values = data.count(b"[") + data.count(b"{") + data.count(b",")
    limits.check_bytes(f"{name} holds {values} values of at least", values * JSON_VALUE_BYTES)
    try:
        document = json.loads(data.decode("utf-8-sig"), object_pairs_hook=no_key_twice)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 (byte {error.start + 1}), must be saved as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: not JSON ({error}); one object a line is .jsonl") from error
    for number, entry in enumerate(_entries(document)):
        if not isinstance(entry, dict):
            raise ValueError(f"{name} entry {number}: a JSON {type(entry).__name__}, an object expected")
        row = text_values(entry)
        for column, value in row.items():
            try:
                (column + value).encode()
            except UnicodeEncodeError:
                raise ValueError(f"{name} entry {number}: column {column!a} holds half of a character") from None
        yield number, row


def _entries(document: Any) -> list[Any]:
    if not isinstance(document, dict):
        return document if isinstance(document, list) else [document]
    if isinstance(document.get("data"), list):
        return list(document["data"])
    inner = list(document.values())
    return inner if inner and all(isinstance(entry, dict) for entry in inner) else [document]


def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The mapping of a JSON object's pairs.

    Raises:
        ValueError: If a key is there twice, of which one would go unseen.
    """
    made = dict(pairs)
    if len(made) != len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"key {twice!r} twice in an object")
    return made
