"""Reads the header of a Parquet page: how large it is, how large once decompressed, and how many values it has.

What a file's footer says of its pages need not be so; what is decompressed goes by their own headers. The headers are
structures of Thrift's compact protocol, of which four numbers are wanted and the rest is passed over.

Source: https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift and
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from typing import Any, BinaryIO, NamedTuple

_MOST = 1 << 20  # bytes of a header; statistics of long texts may be in it
_DEPTH = 8
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_CONTENT, _COMPRESSED = 2, 3  # fields of a page header
_KINDS = (5, 7, 8)  # a page of data, of a dictionary, of data in the second version: field 1 is the number of values


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


def page_header(file: BinaryIO) -> Page:
    """Reads a page's header at the file's position.

    Raises:
        ValueError: If there is none.
    """
    reader = _Compact(file.read(_MOST))
    try:
        fields = reader.struct()
    except (IndexError, TypeError) as error:
        raise ValueError("a page has no header") from error
    inside: dict[int, Any] = next((fields[kind] for kind in _KINDS if isinstance(fields.get(kind), dict)), {})
    content, compressed, values = (fields.get(_CONTENT, -1), fields.get(_COMPRESSED, -1), inside.get(1, 0))
    if not all(isinstance(number, int) and number >= 0 for number in (content, compressed, values)):
        raise ValueError("a page has no header")
    return Page(reader.place + compressed, content, values)


class _Compact:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.place = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """The fields of a structure by number: whole numbers and structures; the rest is passed over."""
        if depth > _DEPTH:
            raise IndexError
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            value = self._value(head & 15, depth)
            if value is not None:
                fields[number] = value
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_I16, _I32, _I64):
            return self._signed()
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_TRUE, _FALSE):
            return None
        if kind in (_BYTE, _DOUBLE, _BINARY):
            self._pass({_BYTE: 1, _DOUBLE: 8}.get(kind) or self._unsigned())
            return None
        if kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._unsigned()
            for _ in range(self._few(count)):
                self._element(head & 15, depth)
            return None
        if kind == _MAP:
            count = self._few(self._unsigned())
            kinds = self._byte() if count else 0
            for _ in range(count):
                self._element(kinds >> 4, depth)
                self._element(kinds & 15, depth)
            return None
        raise IndexError

    def _element(self, kind: int, depth: int) -> None:
        if kind in (_TRUE, _FALSE):
            self._pass(1)
        elif depth < _DEPTH:
            self._value(kind, depth + 1)
        else:
            raise IndexError

    def _byte(self) -> int:
        self.place += 1
        return self._data[self.place - 1]

    def _few(self, count: int) -> int:
        if count > len(self._data) - self.place:
            raise IndexError
        return count

    def _pass(self, count: int) -> None:
        self.place += self._few(count)

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
