"""Reads files of data: .tsv, .csv, .jsonl, .parquet and .json. What their values are says :mod:`hiso_pl.data.values`.

The readers of text are our own because a wrong row must be named by file and line, and because GLUE's .tsv files are
not quoted, so that a quotation mark is an ordinary character there.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hiso_pl.data.arrow import parquet_rows
from hiso_pl.data.json_document import document_rows, no_key_twice
from hiso_pl.data.limits import ReadLimits, Row, Taken
from hiso_pl.data.values import text_values
from hiso_pl.errors import one_line
from hiso_pl.regular_file import open_regular

SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet", ".json")
_UNITS = {".parquet": "row", ".json": "entry"}


def open_table(path: str | Path, limits: ReadLimits = ReadLimits()) -> BinaryIO:  # noqa: B008 - it is frozen
    """Opens a table.

    Args:
        path: A ``.tsv`` (header, no quoting), ``.csv`` (header, quoted), ``.jsonl`` or ``.json`` file in UTF-8, or a
            ``.parquet`` file.
        limits: What it may ask for.

    Raises:
        ValueError: If the file cannot be read, has too many bytes, or is none of the kinds that are known.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"file {str(path)!r} must end in {', '.join(SUFFIXES)}")
    try:
        file = open_regular(path)
    except FileNotFoundError:
        raise ValueError(f"file {str(path)!r} does not exist") from None
    except OSError as error:
        raise ValueError(f"file {str(path)!r} cannot be read: {error.strerror}") from error
    try:
        limits.check_bytes(f"file {str(path)!r} has", os.fstat(file.fileno()).st_size)
    except ValueError:
        file.close()
        raise
    return file


def parse_rows(
    path: str | Path,
    file: BinaryIO,
    limits: ReadLimits = ReadLimits(),  # noqa: B008 - it is frozen
) -> list[tuple[int, Row]]:
    """All rows that a file holds: see :func:`each_row`.

    Args:
        path: The file's name, whose end says what the bytes are.
        file: The file, at its beginning.
        limits: What it may ask for.

    Raises:
        ValueError: If there are none, there is too much of them, or one is broken; the message names file and line.
    """
    rows, taken = [], Taken(limits, str(Path(path).expanduser()))
    for number, row in each_row(path, file, limits):
        taken.add(row)
        rows.append((number, row))
    if not rows:
        raise ValueError(f"{Path(path).expanduser()}: no rows")
    return rows


def each_row(path: str | Path, file: BinaryIO, limits: ReadLimits) -> Iterator[tuple[int, Row]]:
    """One row of a file after another, every value as text, each with the line it starts on, counted from 1.

    In Parquet it is the row's number, in a JSON document the entry's, counted from 0. Empty lines are passed over.

    Args:
        path: The file's name, whose end says what the bytes are.
        file: The file, at its beginning.
        limits: What it may ask for; rows are not counted.

    Raises:
        ValueError: If one is broken; the message names file and line.
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet_rows(path, file, limits)
    if suffix == ".json":
        return document_rows(str(path), file, limits)
    lines = _lines(path, file, limits)
    if suffix == ".jsonl":
        return _json_rows(path, lines)
    return _table_rows(path, _quoted_cells(path, lines, limits) if suffix == ".csv" else _plain_cells(lines))


def row_name(path: str | Path, number: int) -> str:
    """How messages name a row of a file."""
    return f"{path} {_UNITS.get(Path(path).suffix.lower(), 'line')} {number}"


def _lines(path: Path, file: BinaryIO, limits: ReadLimits) -> Iterator[tuple[int, str]]:
    """Decodes a file line by line, splitting at newlines only: text may hold other Unicode separators."""
    number = read = 0
    while line := file.readline(limits.row_bytes + 2):
        number, read = number + 1, read + len(line)
        limits.check_bytes(f"{path} has", read)  # it may have grown
        line = line.removesuffix(b"\n")
        limits.check_row(f"{path} line {number}", len(line))
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
            if b"\r" in line[:-1]:
                raise ValueError(f"{path} line 1: lines end in a carriage return alone, must end in a newline")
        try:
            yield number, line.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} line {number}: not UTF-8 (byte {error.start + 1} of the line), must be saved as UTF-8"
            ) from error


def _parquet_rows(path: Path, file: BinaryIO, limits: ReadLimits) -> Iterator[tuple[int, Row]]:
    number = 0
    try:
        for values in parquet_rows(str(path), file, limits):
            yield number, text_values(values)
            number += 1
    except Exception as error:  # whatever Arrow makes of a broken file
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        where = f" row {number}" if number else ""
        raise ValueError(f"{path}{where}: not Parquet, or damaged ({one_line(error, 200)})") from error


def _json_rows(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, Row]]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            values = json.loads(line, object_pairs_hook=no_key_twice)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} line {number}: not JSON ({error})") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path} line {number}: a JSON {type(values).__name__}, an object expected")
        row = {sys.intern(name): value for name, value in text_values(values).items()}
        if "\\ud" in line.lower():  # JSON can spell halves of a pair of surrogates, which are no text
            _check_text(f"{path} line {number}", row)
        yield number, row


def _check_text(where: str, row: Row) -> None:
    for name, value in row.items():
        try:
            (name + value).encode()
        except UnicodeEncodeError as error:
            code = ord(error.object[error.start])
            raise ValueError(f"{where}: column {name!a} holds half of a character (\\u{code:04x})") from None


def _table_rows(path: Path, cells: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, Row]]:
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


def _plain_cells(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
    return ((number, line.split("\t")) for number, line in lines)


def _quoted_cells(path: Path, lines: Iterator[tuple[int, str]], limits: ReadLimits) -> Iterator[tuple[int, list[str]]]:
    """Cells of a .csv file; a quoted cell may run over several lines."""
    read = 0
    # A setting of the whole process, which is why it is only ever raised: a row's bytes are what is bounded here.
    csv.field_size_limit(max(csv.field_size_limit(), limits.row_bytes))

    def counted() -> Iterator[str]:
        nonlocal read
        for _, line in lines:
            read += len(line) + 1
            limits.check_row(f"{path} line {number}", read - 1)
            yield line + "\n"

    reader = csv.reader(counted(), strict=True)
    while True:
        number, read = reader.line_num + 1, 0
        try:
            yield number, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{path} line {number}: {error}") from error
