"""What the files of a folder saved by ``datasets`` may be, seen to before that package opens any of them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hiso_pl.data.limits import ReadLimits

_DICTIONARY, _RECORDS = 2, 3  # kinds of a message


def check_saved(folder: Path, split: Path, names: Sequence[str], limits: ReadLimits) -> None:
    """Refuses files of other places, too many bytes, and what would take more memory than it has bytes.

    Args:
        folder: The folder.
        split: The folder of the split, the same or inside it.
        names: The files that hold its rows.
        limits: What they may ask for.

    Raises:
        ValueError: If it holds such.
        Exception: Whatever Arrow raises if it is damaged.
    """
    size = 0
    for path in split.iterdir():
        if not path.resolve().is_relative_to(folder.resolve()) or not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path} must be a regular file of that folder")
        size += path.stat().st_size
    limits.check_bytes(f"{split} has", size)
    for name in names:
        _check_plain(split / name)


def _check_plain(path: Path) -> None:
    """Refuses a file of Arrow's with compressed buffers, which ``datasets`` does not write, but would read whole.

    Source of the format: https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format
    """
    import pyarrow  # type: ignore[import-untyped]  # takes half a second

    with pyarrow.memory_map(str(path)) as mapped:
        for message in pyarrow.ipc.MessageReader.open_stream(mapped):
            if _is_compressed(message.metadata.to_pybytes()):
                raise ValueError(f"{path} is compressed, must be as datasets saves it")


def _is_compressed(data: bytes) -> bool:
    """Whether a message, a table of FlatBuffers, holds records whose buffers are compressed."""
    message = _Table(data, _number("<I", data, 0))
    kind = message.field(1)
    if kind is None or data[kind] not in (_DICTIONARY, _RECORDS):
        return False
    records = message.inside(2)
    if data[kind] == _DICTIONARY and records is not None:
        records = records.inside(1)
    return records is not None and records.field(3) is not None


class _Table:
    def __init__(self, data: bytes, place: int) -> None:
        self._data = data
        self._place = place

    def field(self, slot: int) -> int | None:
        """The place of a field; None if there is none."""
        fields = self._place - _number("<i", self._data, self._place)
        if _number("<H", self._data, fields) < 6 + 2 * slot:
            return None
        offset = _number("<H", self._data, fields + 4 + 2 * slot)
        return self._place + offset if offset else None

    def inside(self, slot: int) -> _Table | None:
        """The table that a field leads to."""
        place = self.field(slot)
        return None if place is None else _Table(self._data, place + _number("<I", self._data, place))


def _number(kind: str, data: bytes, place: int) -> Any:
    if place < 0:
        raise IndexError("a message is damaged")
    return struct.unpack_from(kind, data, place)[0]
