"""Reads what a Parquet file says of its columns, and what each page says of itself.

What the end of a file says of its pages need not be so: what is decompressed goes by the pages' own headers. Both are
structures of Thrift's compact protocol, read here since Arrow ends the process on some that are damaged.

Source: https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift and
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

import os
from typing import Any, BinaryIO, NamedTuple

from hiso_pl.bounds import PARQUET_FOOTER_BYTES

_MAGIC = b"PAR1"
_HEADER = 1 << 20  # bytes of a page's; statistics of long texts may be in it
_DEPTH = 12
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_DELTAS = (6, 7)  # encodings of texts: DELTA_LENGTH_BYTE_ARRAY, DELTA_BYTE_ARRAY
_TEXT = 6  # the type BYTE_ARRAY
_DATA, _DICTIONARY, _DATA_2 = 5, 7, 8  # the headers of three kinds of page, each with the number of values first


class Page(NamedTuple):
    """What a page says of itself.

    Attributes:
        length: Bytes of the page in the file, its header included.
        content: Bytes once it is decompressed.
        values: Number of values, nulls included.
    """

    length: int
    content: int
    values: int


class Chunk(NamedTuple):
    """What a file says of a column in a group of rows.

    Attributes:
        path: The names that lead to the column.
        is_text: Whether its values are bytes of any length.
        is_delta: Whether one of them may be told by the one before it.
        begin: Where its pages begin.
        end: Where they end.
        content: Their bytes once they are decompressed.
    """

    path: tuple[str, ...]
    is_text: bool
    is_delta: bool
    begin: int
    end: int
    content: int


def parquet_footer(file: BinaryIO) -> tuple[int, list[int], list[Chunk]]:
    """Reads what a Parquet file says of itself.

    Returns:
        The number of rows, which groups have any, and the columns of those.

    Raises:
        ValueError: If it says nothing that can be read, or too much.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8))
    end = file.read(8)
    length = int.from_bytes(end[:4], "little")
    if len(end) < 8 or end[4:] != _MAGIC or length > size - 8:
        raise ValueError("it does not end as such a file")
    if length > PARQUET_FOOTER_BYTES:
        raise ValueError(f"what it says of itself has {length} bytes, must have at most {PARQUET_FOOTER_BYTES}")
    file.seek(size - 8 - length)
    try:
        about = _Compact(file.read(length)).struct()
        groups = {number: group for number, group in enumerate(about.get(4) or []) if group[3]}
        chunks = [_chunk(column) for group in groups.values() for column in group[1]]
        rows = max(about[3], sum(group[3] for group in groups.values()))
    except (AttributeError, IndexError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError("what it says of itself is damaged") from error
    return rows, list(groups), chunks


def _chunk(column: dict[int, Any]) -> Chunk:
    if column.get(1):
        raise ValueError("a column lies in another file")
    told = column[3]
    begin, dictionary, length, content = (told[9], told.get(11, 0), told[7], told[6])
    if 0 < dictionary < begin:
        begin = dictionary
    if min(begin, length, content) < 0:
        raise ValueError("a column has a negative size")
    path = tuple(name.decode() for name in told[3])
    return Chunk(path, told[1] == _TEXT, any(n in _DELTAS for n in told[2]), begin, begin + length, content)


def page_header(file: BinaryIO) -> Page:
    """Reads a page's header at the file's position.

    Raises:
        ValueError: If there is none.
    """
    reader = _Compact(file.read(_HEADER))
    try:
        fields = reader.struct()
        content, compressed = fields[2], fields[3]
        values = max((fields[kind][1] for kind in (_DATA, _DICTIONARY, _DATA_2) if kind in fields), default=0)
        if min(content, compressed, values) < 0:
            raise ValueError("a page has a negative size")
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError("the header of a page is damaged") from error
    return Page(reader.place + compressed, content, values)


class _Compact:
    """A structure of Thrift's compact protocol; fields by number, what is no number, bytes, list or structure is None.

    Raises:
        IndexError: If it goes on beyond the bytes there are.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.place = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        if depth > _DEPTH:
            raise IndexError
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            kind = head & 15
            fields[number] = None if kind in (_TRUE, _FALSE) else self._value(kind, depth + 1)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_I16, _I32, _I64):
            return self._signed()
        if kind == _STRUCT:
            return self.struct(depth)
        if kind == _BINARY:
            return self._bytes(self._unsigned())
        if kind in (_TRUE, _FALSE, _BYTE, _DOUBLE):
            self._bytes(8 if kind == _DOUBLE else 1)
            return None
        if depth > _DEPTH:
            raise IndexError
        if kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._unsigned()
            return [self._value(head & 15, depth + 1) for _ in range(self._few(count))]
        if kind == _MAP:
            count = self._few(self._unsigned())
            kinds = self._byte() if count else 0
            for _ in range(count):
                self._value(kinds >> 4, depth + 1)
                self._value(kinds & 15, depth + 1)
            return None
        raise IndexError

    def _byte(self) -> int:
        self.place += 1
        return self._data[self.place - 1]

    def _few(self, count: int) -> int:
        """A number of things that take a byte each at least."""
        if count > len(self._data) - self.place:
            raise IndexError
        return count

    def _bytes(self, count: int) -> bytes:
        self.place += self._few(count)
        return self._data[self.place - count : self.place]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise IndexError

    def _signed(self) -> int:
        value = self._unsigned()
        return value >> 1 ^ -(value & 1)
