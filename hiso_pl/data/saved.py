"""Folders saved by ``datasets``: where a split lies, and what its files may be, seen to before any is opened."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hiso_pl.bounds import SAVED_TEXT_BYTES
from hiso_pl.data.limits import ReadLimits
from hiso_pl.errors import one_line
from hiso_pl.regular_file import open_regular, read_at_most

_BLOCK = 1 << 20
_DICTIONARY, _RECORDS = 2, 3  # kinds of a message


def find_split(folder: Path, source: str, split: str, option: str) -> tuple[Path, list[str]]:
    """The folder of a split, and the names of the files that hold its rows.

    It is a split of what ``DatasetDict.save_to_disk`` wrote, or as training split what ``Dataset.save_to_disk`` wrote.

    Args:
        folder: The folder.
        source: What it is called in messages.
        split: Name of the split.
        option: The option that names the split, for messages.

    Raises:
        ValueError: If there is none, or it is not as ``datasets`` saves it.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = _json(folder / "dataset_dict.json").get("splits")
        if not isinstance(splits, list):
            raise ValueError(f"dataset={source!r}: dataset_dict.json lists no splits, must be saved by datasets")
    elif (folder / "dataset_info.json").is_file() and (folder / "state.json").is_file():
        splits = ["train"]
    else:
        raise ValueError(
            f"dataset={source!r}: the folder holds no dataset_dict.json, nor dataset_info.json with state.json: "
            "it must be saved by Dataset.save_to_disk or DatasetDict.save_to_disk"
        )
    if split not in splits:
        raise no_split(source, split, option, ", ".join(map(str, splits)))
    part = folder / split if (folder / "dataset_dict.json").is_file() else folder
    for needed in ("dataset_info.json", "state.json"):
        if split != Path(split).name or not (part / needed).is_file():
            raise ValueError(f"dataset={source!r}: no {needed} for split {split!r}, must be saved by datasets")
    files = _json(part / "state.json").get("_data_files")
    names = [file.get("filename") for file in files if isinstance(file, dict)] if isinstance(files, list) else []
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise ValueError(f"dataset={source!r}: state.json of split {split!r} must name files of that folder")
    return part, list(map(str, names))


def no_split(source: str, split: str, option: str, there: str) -> ValueError:
    """The error that says that a dataset has no such split."""
    other = " or give validation_fraction" if option == "validation_split" else ""
    return ValueError(
        f"dataset={source!r} has no split {split!r}, there are {there.strip('[].')}: name one by {option}{other}"
    )


def bytes_of(folder: Path) -> str:
    """SHA-256 over the names and bytes of the files of a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with open_regular(path) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(read_at_most(path, SAVED_TEXT_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({one_line(error)})") from error
    return values if isinstance(values, dict) else {}


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
