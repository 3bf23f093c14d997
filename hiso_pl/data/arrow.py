"""Rows of Arrow's tables, and of Parquet files, weighed before they are made into text.

A few bytes of such a file can stand for any number of rows and for texts of any size: runs, dictionaries, compression.
What a file says of itself is looked at first, then what each of its pages says; texts stay in their dictionaries until
it is known how large a row is.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from hiso_pl.bounds import PARQUET_PAGE_BYTES, READ_VALUE_BYTES
from hiso_pl.data.limits import ReadLimits
from hiso_pl.data.thrift import Chunk, Page, page_header, parquet_footer

BATCH_ROWS = 1000
BATCH_BYTES = 16 << 20  # made into text at a time


def parquet_rows(name: str, file: BinaryIO, limits: ReadLimits) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, by batches.

    Args:
        name: What messages call the file.
        file: The file.
        limits: What it may ask for.

    Raises:
        ValueError: If it asks for more.
        Exception: Whatever Arrow raises if it is damaged.
    """
    import pyarrow.parquet  # type: ignore[import-untyped]  # takes half a second, which files of text need not wait for

    count, groups, chunks = parquet_footer(file)
    limits.check_rows(f"{name} has", count)
    limits.check_bytes(f"{name} holds", sum(chunk.content for chunk in chunks))
    content = values = 0
    rows, texts = BATCH_ROWS, set()
    for chunk in chunks:
        # a text of these may repeat the one before it, and Arrow does not put them into a dictionary
        repeating = chunk.is_text and chunk.is_delta
        if repeating and len(chunk.path) > 1:
            raise ValueError(f"{name}: {'.'.join(chunk.path)} must not have a delta encoding, as it is nested")
        for page in _pages(file, chunk):
            content, values = content + page.content, values + page.values
            if page.content > PARQUET_PAGE_BYTES:
                raise ValueError(f"{name}: a page holds {page.content} bytes, must hold at most {PARQUET_PAGE_BYTES}")
            limits.check_bytes(f"{name} holds", content)
            limits.check_bytes(f"{name} holds {values} values of at least", values * READ_VALUE_BYTES)
            if repeating:
                rows = max(1, min(rows, 4 * BATCH_BYTES // max(1, page.content)))
        if chunk.is_text and not repeating:
            texts.add(".".join(chunk.path))
    file.seek(0)
    parquet = pyarrow.parquet.ParquetFile(file, read_dictionary=sorted(texts))
    number = 0
    for group in groups:
        for batch in _batches(parquet, group, rows):
            for row in arrow_rows(f"{name} row", batch, limits, number):
                yield row
                number += 1


def parquet_class_names(file: BinaryIO, column: str) -> tuple[str, ...] | None:
    """What a Parquet file calls the numbers of a column, by the note that ``datasets`` leaves in one; None without."""
    import pyarrow.parquet

    try:
        parquet_footer(file)
        file.seek(0)
        note = (pyarrow.parquet.ParquetFile(file).schema_arrow.metadata or {}).get(b"huggingface", b"{}")
        feature = json.loads(note)["info"]["features"][column]
        return tuple(map(str, feature["names"])) if feature["_type"] == "ClassLabel" else None
    except Exception:  # whatever is wrong with the file, its rows will tell
        return None


def _batches(parquet: Any, group: int, rows: int) -> Iterator[Any]:
    """A group of rows by batches; row by row from where Arrow cannot put two dictionaries of nested texts into one."""
    import pyarrow

    read = 0
    try:
        for batch in parquet.iter_batches(rows, row_groups=[group], use_threads=False):
            yield batch
            read += batch.num_rows
    except pyarrow.ArrowNotImplementedError:
        yield from itertools.islice(parquet.iter_batches(1, row_groups=[group], use_threads=False), read, None)


def _pages(file: BinaryIO, chunk: Chunk) -> Iterator[Page]:
    """What the pages of a column's chunk say of themselves, in the order of the file."""
    place = chunk.begin
    while place < chunk.end:
        file.seek(place)
        page = page_header(file)
        yield page
        place += page.length


def arrow_rows(name: str, table: Any, limits: ReadLimits, number: int = 0) -> Iterator[dict[str, Any]]:
    """The rows of a batch or table of Arrow's, weighed before they are made.

    Args:
        name: What messages call a row, before its number.
        table: The rows.
        limits: What a row may ask for.
        number: The number of the first.

    Raises:
        ValueError: If a row has too many bytes.
    """
    weight = sum(_weight(column) for column in table.columns)
    if table.num_rows <= 1:
        limits.check_row(f"{name} {number}", weight)
    if weight <= BATCH_BYTES or table.num_rows <= 1:
        yield from _as_written(table).to_pylist()
        return
    half = table.num_rows // 2
    yield from arrow_rows(name, table.slice(0, half), limits, number)
    yield from arrow_rows(name, table.slice(half), limits, number + half)


def _as_written(table: Any) -> Any:
    """The same with short floats as the long ones that are spelled alike: 0.1, where its bits are 0.10000000149.

    Raises:
        ValueError: If two columns have the same name, of which one would go unseen.
    """
    import pyarrow

    names = table.schema.names
    if len(set(names)) != len(names):
        raise ValueError(f"column names must be distinct, are {', '.join(names)}")
    short = [pyarrow.types.is_float32(kind) or pyarrow.types.is_float16(kind) for kind in table.schema.types]
    if not any(short):
        return table
    columns = [
        column.cast("float32").cast("string").cast("float64") if is_short else column
        for column, is_short in zip(table.columns, short, strict=True)
    ]
    return type(table).from_arrays(columns, names=names)


def _weight(array: Any) -> int:
    """The bytes of an array's texts, and two for each other value, as many as its JSON spelling has at least."""
    import pyarrow
    import pyarrow.compute  # type: ignore[import-untyped]

    kind, types = array.type, pyarrow.types
    if isinstance(array, pyarrow.ChunkedArray):
        return sum(map(_weight, array.chunks))
    if isinstance(array, pyarrow.ExtensionArray):
        return _weight(array.storage)
    if types.is_dictionary(kind):
        texts = types.is_string(kind.value_type) or types.is_binary(kind.value_type)
        if texts or types.is_large_string(kind.value_type) or types.is_large_binary(kind.value_type):
            lengths = pyarrow.compute.binary_length(array.dictionary).cast("int64")
            return 2 * len(array) + (pyarrow.compute.sum(lengths.take(array.indices)).as_py() or 0)
        return _weight(array.dictionary_decode())
    if types.is_struct(kind):
        return 2 * len(array) + sum(map(_weight, array.flatten()))
    if types.is_map(kind):
        inside = array.slice(0, len(array))
        return 2 * len(array) + _weight(inside.keys) + _weight(inside.items)
    if types.is_nested(kind) and hasattr(array, "flatten"):
        return 2 * len(array) + _weight(array.flatten())
    if types.is_run_end_encoded(kind):
        return _weight(array.values) * len(array)
    try:
        return 2 * len(array) + (pyarrow.compute.sum(pyarrow.compute.binary_length(array).cast("int64")).as_py() or 0)
    except (pyarrow.ArrowNotImplementedError, pyarrow.ArrowInvalid):
        return 2 * len(array)
