"""How much a file of data may ask for, and the count of what its rows have taken."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import ClassVar

from hiso_pl.bounds import READ_BYTES, READ_ROW_BYTES, READ_ROWS

Row = dict[str, str]


@dataclass(frozen=True)
class ReadLimits:
    """What a file of data may ask for. They change no result: what is beyond them is an error.

    Args:
        bytes: Most bytes of a file, of what is compressed in it, and of its rows in memory.
        rows: Most rows of a file.
        row_bytes: Most bytes of a row, as it is written or once it is decompressed.

    Attributes:
        name: What messages call the option that holds them.
    """

    name: ClassVar[str] = "read_limits."
    bytes: int = READ_BYTES
    rows: int = READ_ROWS
    row_bytes: int = READ_ROW_BYTES

    def __post_init__(self) -> None:
        """Checks them.

        Raises:
            ValueError: If one is not positive.
        """
        for name in ("bytes", "rows", "row_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"read_limits.{name}={getattr(self, name)} must be at least 1")

    def check_bytes(self, what: str, found: int) -> None:
        """Refuses so many bytes.

        Raises:
            ValueError: If they are too many.
        """
        if found > self.bytes:
            raise ValueError(f"{what} {found} bytes, must have at most {self.name}bytes={self.bytes}")

    def check_rows(self, what: str, found: int) -> None:
        """Refuses so many rows.

        Raises:
            ValueError: If they are too many.
        """
        if found > self.rows:
            raise ValueError(f"{what} {found} rows, must have at most {self.name}rows={self.rows}")

    def check_row(self, what: str, found: int) -> None:
        """Refuses a row of so many bytes.

        Raises:
            ValueError: If they are too many.
        """
        if found > self.row_bytes:
            raise ValueError(
                f"{what} has {found} bytes or more, must have at most {self.name}row_bytes={self.row_bytes}"
            )


class Taken:
    """Counts the rows of a file and the memory they take, and stops beyond the limits.

    Args:
        limits: The limits.
        name: What messages call the file.
    """

    def __init__(self, limits: ReadLimits, name: str) -> None:
        self._limits = limits
        self._name = name
        self._rows = 0
        self._memory = 0

    def add(self, row: Row) -> None:
        """Counts one more row.

        Raises:
            ValueError: If it is one too many, or too large.
        """
        self._rows += 1
        self._limits.check_rows(f"{self._name} has", self._rows)
        self._limits.check_row(f"{self._name}: its row {self._rows}, counted from 1,", sum(map(len, row.values())))
        size = sys.getsizeof(row)
        for name, value in row.items():
            size += sys.getsizeof(name) + sys.getsizeof(value)
        self._memory += size
        if self._memory > self._limits.bytes:
            raise ValueError(
                f"{self._name}: its first {self._rows} rows take {self._memory} bytes in memory, must take at most "
                f"{self._limits.name}bytes={self._limits.bytes}"
            )
