"""Tables whose entries hold several rows each, such as a passage with all its questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

from hiso_pl.data.limits import ReadLimits, Row, Taken
from hiso_pl.data.sources import Table


class UnfoldedTable(Table):
    """A table as it is, or the rows inside its entries where the first of them holds rows.

    Args:
        table: The table.
        unfold: Makes the rows of an entry, each with what its place is called; None for what is a row already.
        limits: What the rows may ask for.
    """

    def __init__(
        self, table: Table, unfold: Callable[[Row], Iterator[tuple[str, Row]] | None], limits: ReadLimits
    ) -> None:
        self.table = table
        self._unfold = unfold
        self._limits = limits

    @cached_property
    def _rows(self) -> list[tuple[str, Row]] | None:
        """The rows of all entries; None where entries are rows."""
        for _, row in self.table.rows(range(min(1, len(self.table)))):
            if self._unfold(row) is None:
                return None
        found, taken = [], Taken(self._limits, "the table once it is unfolded")
        for place, entry in self.table.rows(range(len(self.table))):
            try:
                for inside, row in self._unfold(entry) or [("", entry)]:
                    taken.add(row)
                    found.append((f"{place} {inside}".rstrip(), row))
            except (ValueError, AttributeError, TypeError) as error:
                raise ValueError(f"{place}: {error}") from error
        return found

    def __len__(self) -> int:
        """See :class:`Table`."""
        return len(self.table) if self._rows is None else len(self._rows)

    def identity(self) -> str:
        """That of the table: the task, which unfolds it, is known otherwise."""
        return self.table.identity()

    def class_names(self, column: str) -> tuple[str, ...] | None:
        """Those of the table; the columns of unfolded rows have none."""
        return self.table.class_names(column) if self._rows is None else None

    def rows(self, indices: Sequence[int]) -> Iterator[tuple[str, Row]]:
        """See :class:`Table`."""
        return self.table.rows(indices) if self._rows is None else (self._rows[index] for index in indices)
