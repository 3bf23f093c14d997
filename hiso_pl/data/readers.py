"""Reads tables of text: .tsv, .csv, .jsonl and .parquet.

The readers of text are our own because a wrong row must be named by file and line, and because GLUE's .tsv files are
not quoted, so that a quotation mark is an ordinary character there.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")

Row = dict[str, str]


def read_file(path: str | Path) -> bytes:
    """The bytes of a table.

    Args:
        path: A ``.tsv`` (header, no quoting), ``.csv`` (header, quoted) or ``.jsonl`` file in UTF-8, or a ``.parquet``
            file.

    Raises:
        ValueError: If the file cannot be read, or is none of the kinds that are known.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"file {str(path)!r} must end in {', '.join(SUFFIXES)}")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"file {str(path)!r} does not exist") from None
    except OSError as error:
        raise ValueError(f"file {str(path)!r} cannot be read: {error.strerror}") from error


def parse_rows(path: str | Path, data: bytes) -> list[tuple[int, Row]]:
    """The rows that the bytes of a file hold, every value as text, each with the line it starts on, counted from 1.

    In Parquet it is the row's number, counted from 0. Empty lines are passed over. Values that are not text keep their
    JSON spelling (``true``, ``3``); those that are null are left out.

    Args:
        path: The file's name, whose end says what the bytes are.
        data: Its bytes.

    Raises:
        ValueError: If there are none, or one is broken; the message names file and line.
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        rows = list(_parquet_rows(path, data))
    elif suffix == ".jsonl":
        rows = list(_json_rows(path, _lines(path, data)))
    else:
        rows = list(_table_rows(path, _lines(path, data), quoted=suffix == ".csv"))
    if not rows:
        raise ValueError(f"{path}: no rows")
    return rows


def row_name(path: str | Path, number: int) -> str:
    """How messages name a row of a file."""
    return f"{path} {'row' if str(path).lower().endswith('.parquet') else 'line'} {number}"


def _lines(path: Path, data: bytes) -> Iterator[tuple[int, str]]:
    """Decodes a file line by line, splitting at newlines only: text may hold other Unicode separators."""
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            yield number, line.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} line {number}: not UTF-8 (byte {error.start + 1} of the line)") from error


def _parquet_rows(path: Path, data: bytes) -> Iterator[tuple[int, Row]]:
    import pyarrow.parquet  # type: ignore[import-untyped]  # takes half a second, which files of text need not wait for

    number = 0
    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(data))
        for group in range(file.num_row_groups):
            for values in file.read_row_group(group).to_pylist():
                yield number, text_values(values)
                number += 1
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        message = " ".join(str(error).split())[:200]
        where = f" row {number}" if number else ""
        raise ValueError(f"{path}{where}: not Parquet, or damaged ({message})") from error


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
        row = text_values(values)
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
