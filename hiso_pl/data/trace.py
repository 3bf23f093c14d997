"""Which clients are there in which rounds, by a file."""

from __future__ import annotations

import logging
from array import array
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiso_pl.bounds import CLIENTS, ROUNDS, TRACE_BYTES, TRACE_ROW_BYTES, TRACE_ROWS
from hiso_pl.data.examples import arrays_fingerprint
from hiso_pl.data.limits import ReadLimits, Row
from hiso_pl.data.readers import each_row, open_table, row_name
from hiso_pl.federation.presence.availability import Availability, Clients

logger = logging.getLogger(__name__)


class _Limits(ReadLimits):
    """Those of a trace, which no option moves."""

    name = ""


LIMITS = _Limits(TRACE_BYTES, TRACE_ROWS, TRACE_ROW_BYTES)
_COLUMNS = ({"client", "round"}, {"client", "first", "last"})


class _Stays(NamedTuple):
    """Stretches of rounds in which a client is there, by client and first round; those of a client lie apart."""

    clients: Clients
    firsts: NDArray[np.int64]
    lasts: NDArray[np.int64]


class Trace(Availability):
    """Clients are there in the rounds that a file names, numbered from 0 like the clients; in no others.

    Args:
        file: A .csv, .tsv, .jsonl, .json or .parquet file with the columns client and round, or client, first and last
            for all rounds from the first to the last.
        repeat: Whether the rounds after the last one that the file names are as from round 0 on.
    """

    def __init__(self, file: str, repeat: bool = False) -> None:
        self.file = file
        self.repeat = repeat

    def there(self, seed: int, clients: Clients, round: int) -> NDArray[np.bool_]:
        """See :class:`Availability`; nothing is drawn."""
        stays = self._stays
        if self.repeat:
            round %= int(stays.lasts.max()) + 1
        place = np.searchsorted(self._keys, _keys(clients, round), side="right") - 1
        mine = (place >= 0) & (stays.clients[place] == clients)
        return np.asarray(mine & (stays.lasts[place] >= round))

    def fingerprint(self) -> str:
        """See :class:`Availability`."""
        return arrays_fingerprint(*self._stays)

    def check(self, clients: int, rounds: range) -> None:
        """See :class:`Availability`; says in how many rounds nobody is there.

        Raises:
            ValueError: If the file cannot be read, names a client that there is not, or nobody in any of the rounds.
        """
        stays = self._stays
        if (largest := int(stays.clients.max())) >= clients:
            raise ValueError(f"{self.file} names client {largest}, must be below clients={clients}")
        named = int(stays.lasts.max()) + 1
        stop = min(rounds.stop, named) if self.repeat else rounds.stop
        gaps = [(a, min(b, stop)) for a, b in [*_gaps(stays), (named, stop)] if a < stop]
        empty = sum(b - a for a, b in gaps)
        if empty and empty == stop:
            raise ValueError(
                f"{self.file} names nobody in rounds 0 to {stop - 1}, which trainer.max_steps={rounds.stop} asks for: "
                "must name somebody in some"
            )
        if empty:
            logger.warning(
                "%s leaves %d of %d rounds without anybody, the first of them round %d: they move nothing.",
                *(self.file, empty, stop, gaps[0][0]),
            )

    @cached_property
    def _keys(self) -> NDArray[np.uint64]:
        return _keys(self._stays.clients, self._stays.firsts)

    @cached_property
    def _stays(self) -> _Stays:
        held = array("q")  # a row's mapping takes half a kilobyte
        with open_table(self.file, LIMITS) as file:
            for number, row in each_row(self.file, file, LIMITS):
                if not held and set(row) not in _COLUMNS:
                    raise ValueError(
                        f"{self.file} has columns {', '.join(row)}, must have client and round, or client, first, last"
                    )
                held.extend(self._numbers(number, row))
                LIMITS.check_rows(f"{self.file} has", len(held) // 3)
        if not held:
            raise ValueError(f"{self.file}: no rows, so it names no client")
        table = np.frombuffer(held, dtype=np.int64).reshape(-1, 3)
        return _apart(*table[np.lexsort((table[:, 1], table[:, 0]))].T)

    def _numbers(self, number: int, row: Row) -> tuple[int, int, int]:
        """Client, first and last round of a row."""
        found = []
        names = ("client", "round", "round") if "round" in row else ("client", "first", "last")
        for name, most in zip(names, (CLIENTS, ROUNDS, ROUNDS), strict=True):
            text = row.get(name, "")
            if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) >= most:
                raise ValueError(
                    f"{row_name(self.file, number)}: {name}={text!r} must be a whole number in [0, {most})"
                )
            found.append(int(text))
        client, first, last = found
        if last < first:
            raise ValueError(f"{row_name(self.file, number)}: last={last} must be at least first={first}")
        return client, first, last


def _keys(clients: Clients, rounds: NDArray[np.int64] | int) -> NDArray[np.uint64]:
    """Clients and rounds as one number each, in the order of both."""
    return clients.astype(np.uint64) << np.uint64(32) | np.asarray(rounds).astype(np.uint64)


def _apart(clients: Clients, firsts: NDArray[np.int64], lasts: NDArray[np.int64]) -> _Stays:
    """Stretches sorted by client and first round, those that overlap or touch made one."""
    # the last round that a client was there up to a row: a running maximum that begins anew with every client
    base = np.cumsum(np.append(0, clients[1:] != clients[:-1])) * ROUNDS
    raised = np.maximum.accumulate(lasts + base) - base
    new = np.ones(len(clients), dtype=np.bool_)
    new[1:] = (clients[1:] != clients[:-1]) | (firsts[1:] > raised[:-1] + 1)
    begins = np.flatnonzero(new)
    ends = np.append(begins[1:], len(clients)) - 1
    return _Stays(clients[begins], firsts[begins], raised[ends])


def _gaps(stays: _Stays) -> list[tuple[int, int]]:
    """Rounds before the last one named in which nobody is there, as (first, one beyond the last)."""
    order = np.argsort(stays.firsts, kind="stable")
    everybody = _apart(np.zeros(len(order), dtype=np.int64), stays.firsts[order], stays.lasts[order])
    begins, ends = np.append(0, everybody.lasts[:-1] + 1), everybody.firsts
    return [(int(a), int(b)) for a, b in zip(begins, ends, strict=True) if a < b]
