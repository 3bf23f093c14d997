"""Where the rows of a text task come from: files of text, folders saved by ``datasets``, or the hub."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from hiso_pl.data.arrow import arrow_rows, parquet_class_names
from hiso_pl.data.limits import ReadLimits, Row, Taken
from hiso_pl.data.readers import open_table, parse_rows, row_name
from hiso_pl.data.saved import bytes_of, check_saved, find_split, no_split
from hiso_pl.data.values import text_values
from hiso_pl.errors import one_line
from hiso_pl.regular_file import sha256_of

ROWS = 1000  # read from a dataset at a time


class Table(ABC):
    """The rows of one split, read when they are asked for."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    def class_names(self, column: str) -> tuple[str, ...] | None:
        """What a column of class numbers calls them, in their order; None where it does not."""
        return None

    @abstractmethod
    def identity(self) -> str:
        """What tells these rows from others: equal for equal data, wherever it lies."""

    @abstractmethod
    def rows(self, indices: Sequence[int]) -> Iterator[tuple[str, Row]]:
        """The rows at some positions, each with its place for messages.

        Raises:
            ValueError: If they cannot be read.
        """


class FileTable(Table):
    """A ``.tsv``, ``.csv``, ``.jsonl``, ``.json`` or ``.parquet`` file.

    Args:
        path: The file.
        limits: What it may ask for.

    Raises:
        ValueError: If it cannot be read.
    """

    def __init__(self, path: str, limits: ReadLimits = ReadLimits()) -> None:  # noqa: B008 - it is frozen
        self.path = path
        self._limits = limits
        with open_table(path, limits) as file:
            self._sha256 = sha256_of(file)

    @cached_property
    def _rows(self) -> list[tuple[int, Row]]:
        with open_table(self.path, self._limits) as file:
            rows = parse_rows(self.path, file, self._limits)
            if sha256_of(file) != self._sha256:
                raise ValueError(f"{self.path} was changed while it was read")
        return rows

    def __len__(self) -> int:
        """See :class:`Table`."""
        return len(self._rows)

    def class_names(self, column: str) -> tuple[str, ...] | None:
        """See :class:`Table`; of text files none."""
        if Path(self.path).suffix.lower() != ".parquet":
            return None
        with open_table(self.path, self._limits) as file:
            return parquet_class_names(file, column)

    def identity(self) -> str:
        """SHA-256 of the file's bytes, with the end of its name, which says how they are read."""
        return Path(self.path).suffix.lower() + self._sha256

    def rows(self, indices: Sequence[int]) -> Iterator[tuple[str, Row]]:
        """See :class:`Table`."""
        for index in indices:
            number, row = self._rows[index]
            yield row_name(self.path, number), row


class DatasetTable(Table):
    """A split as the package ``datasets`` opens it.

    Args:
        data: A ``datasets.Dataset``.
        name: What messages call it.
        identity: What tells it from others; None takes the fingerprint of the dataset, or of its rows.
        limits: What it may ask for.
    """

    def __init__(
        self,
        data: Any,
        name: str,
        identity: str | None = None,
        limits: ReadLimits = ReadLimits(),  # noqa: B008 - it is frozen
    ) -> None:
        self.name = name
        plain = data.with_format(None) if hasattr(data, "with_format") else data
        self._identity = identity or getattr(plain, "_fingerprint", None)
        # as Arrow has it: what datasets would decode, such as an image, it reads from wherever the row says
        self._data = plain.with_format("arrow") if hasattr(plain, "column_names") else plain
        self._features: Mapping[str, Any] = getattr(plain, "features", None) or {}
        self._limits = limits

    def __len__(self) -> int:
        """See :class:`Table`."""
        return len(self._data)

    def class_names(self, column: str) -> tuple[str, ...] | None:
        """See :class:`Table`."""
        feature: Any = self._features.get(column)
        return tuple(feature.names) if type(feature).__name__ == "ClassLabel" else None

    def identity(self) -> str:
        """See :class:`Table`."""
        if self._identity is not None:
            return str(self._identity)
        rows = [row for _, row in self.rows(range(len(self)))]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()

    def rows(self, indices: Sequence[int]) -> Iterator[tuple[str, Row]]:
        """See :class:`Table`."""
        taken = Taken(self._limits, self.name)
        for start in range(0, len(indices), ROWS):
            some = list(indices[start : start + ROWS])
            try:
                rows = [text_values(values) for values in self._read(some)]
            except Exception as error:  # whatever reading a broken file can fail with
                raise ValueError(f"{self.name} row {some[0]} or after: cannot be read ({one_line(error)})") from error
            for index, row in zip(some, rows, strict=True):
                taken.add(row)
                yield f"{self.name} row {index}", row

    def _read(self, indices: list[int]) -> Iterator[dict[str, Any]]:
        if not hasattr(self._data, "column_names"):
            return (self._data[index] for index in indices)
        return arrow_rows("of those the row", self._data[indices], self._limits)


def open_dataset(
    source: str,
    name: str | None,
    split: str,
    option: str,
    limits: ReadLimits = ReadLimits(),  # noqa: B008 - it is frozen
) -> Table:
    """Opens a split of a folder saved by ``datasets``, or of a dataset on the hub.

    Args:
        source: The folder, or the dataset's name on the hub.
        name: Name of a configuration on the hub.
        split: Name of the split.
        option: The option that names the split, for messages.
        limits: What it may ask for.

    Raises:
        ValueError: If there is no such dataset or split.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        if name is not None:
            raise ValueError(f"dataset_name={name!r} must be left out: dataset={source!r} is a folder")
        return _open_saved(folder, source, split, option, limits)
    if folder.exists():
        raise ValueError(f"dataset={source!r} is a file, must be a folder or a name on the hub; give train_file")
    if not source or source.startswith((".", "~", "/")) or source.count("/") > 1 or "\\" in source:
        raise ValueError(f"dataset={source!r}: no such folder; give one saved by datasets, or a name on the hub")
    return _open_hub(source, name, split, option, limits)


def _open_hub(path: str, name: str | None, split: str, option: str, limits: ReadLimits) -> Table:
    from hiso_pl import hub

    away = hub.away()  # before datasets is imported, which asks whether to stay away only then
    from datasets import load_dataset  # takes a second, which local files need not wait for

    label = "/".join(part for part in (path, name, split) if part)
    try:
        data = load_dataset(path, name, split=split)
    except Exception as error:  # whatever a download can fail with: connection, hub, arrow, file system
        if away and isinstance(error, OSError):
            hub.check_there(f"dataset={label!r}", False, "give train_file and validation_file, or a saved folder")
        if str(error).startswith("Unknown split"):
            raise no_split(path, split, option, one_line(error).partition("Should be one of ")[2]) from error
        raise ValueError(
            f"{label} cannot be had from the hub ({one_line(error)}); give train_file and validation_file instead"
        ) from error
    return DatasetTable(data, label, limits=limits)


def _open_saved(folder: Path, source: str, split: str, option: str, limits: ReadLimits) -> Table:
    part, names = find_split(folder, source, split, option)
    from datasets import load_from_disk

    label = source if part is folder else f"{source}/{split}"
    try:
        check_saved(folder, part, names, limits)
        return DatasetTable(load_from_disk(str(part)), label, bytes_of(part), limits)
    except Exception as error:  # whatever a broken file can fail with
        raise ValueError(f"{label} cannot be read as a saved dataset ({one_line(error)})") from error
