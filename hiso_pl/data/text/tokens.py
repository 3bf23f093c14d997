"""The tokens of a text task's splits: made of their rows, or taken from where they were kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hiso_pl.data.cache import Arrays, Cache, cache_key, checksum
from hiso_pl.data.ownership import Owner
from hiso_pl.data.sources import Table
from hiso_pl.data.text.prompts import Limit
from hiso_pl.data.text.reading import Rows, column_codes, columns_with_values, owned
from hiso_pl.data.text.rows import TextRows
from hiso_pl.data.text.tokenizing import Tokenizer
from hiso_pl.data.tokenized import names_array
from hiso_pl.data.values import Blanks

MADE = 2
"""Number of the way in which tokens are made of rows: to be raised when equal rows come to other tokens."""


@dataclass
class TextTokens:
    """Makes tokens of the rows of splits, and keeps them.

    Args:
        rows: The rows.
        encode: What makes tokens of some.
        tokenizer: The tokenizer.
        identity: What it is known by, before it is used: a backend remembers how it was last asked to pad. Without
            one nothing is kept.
        limit: Most tokens of an example.
        cache: Where tokens are kept.
        column: The column of the training rows that the partition wants kept.
        blanks: What is done with rows that have a blank.
        kind: What else the tokens follow from, by name.
    """

    rows: TextRows
    encode: Callable[[Tokenizer, Rows, Limit], Arrays]
    tokenizer: Tokenizer
    identity: str | None
    limit: Limit
    cache: Cache | None
    column: str | None
    blanks: Blanks
    kind: Mapping[str, str]

    def arrays(self, split: int, client: int | None, writes: bool) -> Arrays:
        """The tokens of a split, or of a client's file.

        Args:
            split: The split.
            client: The client; None for what is common to all.
            writes: Whether tokens that had to be made are to be kept.

        Raises:
            ValueError: If they cannot be made; of a client's file the message names the client.
        """
        try:
            table = self.rows.table(split, client)
            if self.cache is None or self.identity is None:
                return self._make(split, client, table)
            key = self._key(split, client, table)
            found = self.cache.read(key)
            if found is not None:
                return found
            arrays = self._make(split, client, table)
        except ValueError as error:
            if client is None:
                raise
            raise ValueError(f"client {client}: {error}") from error
        if writes and not self.cache.write(key, arrays):
            self.cache = None
        return arrays

    def owner(self, client: int, arrays: Arrays, classes: Sequence[str]) -> Owner:
        """What is told of a client by the tokens of its file."""
        columns = arrays["columns"].tobytes().decode().split("\0")
        alike = {"columns": ", ".join(columns), "classes": ", ".join(classes), "tokenizer": str(self.identity)}
        return Owner(str(self.rows.file(0, client)), len(arrays["labels"]), checksum(arrays), alike)

    def _make(self, split: int, client: int | None, table: Table) -> Arrays:
        drawn = rows = self.rows.drawn(split, table)
        column = self.column if split == 0 else None
        if column is not None:
            rows = owned(rows, column, self.blanks)
        arrays = self.encode(self.tokenizer, rows, self.limit)
        kept = arrays.pop("rows").tolist()
        arrays["left_out"] = np.array([len(drawn) - len(kept)], dtype=np.int64)
        if column is not None:
            arrays[f"column:{column}"] = column_codes([rows[i] for i in kept], column)
        if client is not None:
            arrays["columns"] = names_array(columns_with_values(drawn))
        return arrays

    def _key(self, split: int, client: int | None, table: Table) -> str:
        """What an entry of the cache is known by."""
        renamed = self.rows.label_places(table)
        return cache_key(
            {
                "source": table.identity(),
                **self.rows.draw(split),
                **self.kind,
                "tokenizer": self.identity,
                "limit": self.limit.tokens,
                "column": self.column if split == 0 else None,
                "blanks": self.blanks,
                "made": MADE,
                **({} if client is None else {"columns": True}),
                **({} if renamed is None else {"labels": list(renamed)}),
            }
        )
