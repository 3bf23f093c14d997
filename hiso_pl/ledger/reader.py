"""Reading a ledger: frame by frame, in bounded memory, with every frame checked before it is used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hiso_pl.ledger.format import Closing, LedgerError
from hiso_pl.ledger.header import Header
from hiso_pl.ledger.walk import Frame, Walk
from hiso_pl.run.folder import CONFIG
from hiso_pl.zeroth_order.record import RoundRecord


class Survey(NamedTuple):
    """What there is in a ledger, once all of it was read.

    Attributes:
        rounds: Whole records.
        closing: The closing frame; none if the run was interrupted or goes on.
        torn_at: Where the last whole frame ends, if the file ends inside the next one.
        headers: The header and later ones, each with the round from which on it is in force.
        end: Where the next record would be written: over the closing frame and what is torn.
        chain: The checksum it would be chained to.
        size: Bytes of the file.
    """

    rounds: int
    closing: Closing | None
    torn_at: int | None
    headers: tuple[tuple[int, Header], ...]
    end: int
    chain: bytes
    size: int

    def closed_otherwise(self, rounds: int, digest: str | None) -> bool:
        """Whether it was closed after so many rounds with another digest than the one given, if one is."""
        closing = self.closing
        return closing is not None and digest is not None and closing.rounds == rounds and closing.digest != digest


class LedgerReader:
    """A ledger to be read; also one that a run is still writing.

    Iterating gives its round records in order, :meth:`entries` also the headers that changed options between them. A
    torn tail ends the iteration; damage raises.

    Args:
        path: The ledger.

    Raises:
        LedgerError: If the file is no ledger, or its header is damaged.
        OSError: If it cannot be read.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._headers: dict[tuple[int, bytes], Header] = {}
        first = next(self.frames())
        assert isinstance(first.value, Header)
        self.header = first.value
        self._survey: Survey | None = None

    def __iter__(self) -> Iterator[RoundRecord]:
        """The records.

        Raises:
            LedgerError: At the first that is damaged; it names number, round and offset.
        """
        return (entry for entry in self.entries() if isinstance(entry, RoundRecord))

    def entries(self) -> Iterator[RoundRecord | Header]:
        """The records, and before those that were made with other options the header that says so."""
        for place, frame in enumerate(self.frames()):
            if place and not isinstance(frame.value, Closing):
                yield frame.value

    @property
    def rounds(self) -> int:
        """Number of whole records."""
        return self.survey().rounds

    def survey(self) -> Survey:
        """Reads all of the file, the first time it is asked for.

        Raises:
            LedgerError: If something is damaged.
        """
        if self._survey is None:
            rounds, closing, headers = 0, None, []
            end, chain, last = 0, b"", 0
            for frame in self.frames():
                last = frame.end
                if isinstance(frame.value, Closing):
                    closing = frame.value
                    continue
                end, chain = frame.end, frame.chain
                if isinstance(frame.value, Header):
                    headers.append((rounds, frame.value))
                else:
                    rounds += 1
            torn_at = last if last < self._size else None
            self._survey = Survey(rounds, closing, torn_at, tuple(headers), end, chain, self._size)
        return self._survey

    def frames(self) -> Iterator[Frame]:
        """All whole frames, each once it was found right.

        Raises:
            LedgerError: At the first that is damaged.
        """
        if self.path.exists() and not self.path.is_file():  # one would be waited for, or has no end
            raise LedgerError(f"{self.path} is no file, so it is no ledger")
        with self.path.open("rb") as file:
            self._size = os.fstat(file.fileno()).st_size  # a run may be writing on
            yield from Walk(file, self.path, self._size, self._headers).frames()

    def around(self, round: int) -> tuple[Frame, Frame]:
        """The frames that stand before the record of ``round``.

        Returns:
            The record before it, or the first header; and the last header that follows that one directly, or it again.
        """
        frames = self.frames()
        before = after = next(frames)
        for found in frames:
            if isinstance(found.value, RoundRecord):
                if found.value.round >= round:
                    break
                before = after = found
            elif isinstance(found.value, Header):
                after = found
        return before, after

    def after(self, offset: int) -> Iterator[Frame]:
        """The frames that begin at ``offset`` or later, without a closing frame."""
        return (f for f in self.frames() if f.offset >= offset and not isinstance(f.value, Closing))


def ledger_of_command(path: str) -> LedgerReader:
    """The ledger that a command was given.

    Raises:
        LedgerError: If the file is no ledger, or lies where a run keeps none.
        OSError: If it cannot be read.
    """
    if not Path(path).exists() and Path(path).with_name(CONFIG).is_file():
        raise LedgerError(
            f"{path} does not exist: the run there keeps none (its method is not scalar-only, or ledger.enabled false)"
        )
    return LedgerReader(path)
