"""Reads tables of text: .tsv, .csv and .jsonl.

The readers are our own because a wrong row must be named by file and line, and because GLUE's .tsv files are not
quoted, so that a quotation mark is an ordinary character there.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = (".tsv", ".csv", ".jsonl")

Row = dict[str, str]


def read_table(path: str | Path) -> list[Row]:
    """The rows of a file, every value as text.

    Args:
        path: A ``.tsv`` (header, no quoting), ``.csv`` (header, quoted) or ``.jsonl`` file in UTF-8.

    Raises:
        ValueError: If the file is missing or empty, or a row is broken; the message names file and line.
    """
    return [row for _, row in numbered_rows(path)]


def numbered_rows(path: str | Path) -> list[tuple[int, Row]]:
    """The same as :func:`read_table`, each row with the line it starts on, counted from 1.

    Empty lines are passed over. Values of JSON that are not text keep their JSON spelling (``true``, ``3``); those
    that are null are left out.
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"file {str(path)!r} must end in {', '.join(SUFFIXES)}")
    lines = _lines(path)
    rows = list(_json_rows(path, lines) if suffix == ".jsonl" else _table_rows(path, lines, quoted=suffix == ".csv"))
    if not rows:
        raise ValueError(f"{path}: no rows")
    return rows


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Decodes a file line by line, splitting at newlines only: text may hold other Unicode separators."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"file {str(path)!r} does not exist") from None
    except OSError as error:
        raise ValueError(f"file {str(path)!r} cannot be read: {error.strerror}") from error
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            yield number, line.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} line {number}: not UTF-8 (byte {error.start + 1} of the line)") from error


def _json_rows(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, Row]]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} line {number}: not JSON ({error})") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path} line {number}: a JSON {type(values).__name__}, an object expected")
        yield number, text_values(values)


def text_values(values: dict[str, object]) -> Row:
    """Values of any kind as text: text as it is, the rest in its JSON spelling, nulls left out."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, default=str)
        for name, value in values.items()
        if value is not None
    }


def _table_rows(path: Path, lines: Iterator[tuple[int, str]], quoted: bool) -> Iterator[tuple[int, Row]]:
    cells = _quoted_cells(path, lines) if quoted else ((number, line.split("\t")) for number, line in lines)
    filled = ((number, row) for number, row in cells if row not in ([], [""]))
    _, header = next(filled, (0, []))
    if not header:
        raise ValueError(f"{path}: empty, a header line expected")
    if len(set(header)) != len(header) or "" in header:
        raise ValueError(f"{path} line 1: column names must be distinct and not empty, are {', '.join(header)}")
    for number, row in filled:
        if len(row) != len(header):
            raise ValueError(f"{path} line {number}: {len(row)} columns, {len(header)} expected ({', '.join(header)})")
        yield number, dict(zip(header, row, strict=True))


def _quoted_cells(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
    """Cells of a .csv file; a quoted cell may run over several lines."""
    reader = csv.reader((line + "\n" for _, line in lines), strict=True)
    while True:
        number = reader.line_num + 1
        try:
            yield number, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{path} line {number}: {error}") from error
