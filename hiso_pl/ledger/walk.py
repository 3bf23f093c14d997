"""One pass over a ledger's frames: nothing is used, or allocated, before it was found right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

from hiso_pl import bounds
from hiso_pl.ledger import format as fmt
from hiso_pl.ledger.compare import CHANGEABLE, FREE, difference
from hiso_pl.ledger.format import MAGIC, PREAMBLE, Closing, Kind, LedgerError
from hiso_pl.ledger.header import Header
from hiso_pl.zeroth_order.record import RoundRecord


class Frame(NamedTuple):
    """A frame that was read and found right.

    Attributes:
        offset: Where it begins.
        end: Where the next one begins.
        chain: Its chain checksum.
        value: What it holds.
    """

    offset: int
    end: int
    chain: bytes
    value: Header | RoundRecord | Closing


class Walk:
    """One pass over a file.

    Args:
        file: The file, at its start.
        path: Its path, for messages.
        size: Its size when the pass began; what is written later is not looked at.
        known: Headers that earlier passes have read, by offset and chain checksum; it takes up those of this one.
    """

    def __init__(
        self, file: BinaryIO, path: Path, size: int, known: dict[tuple[int, bytes], Header] | None = None
    ) -> None:
        self.file = file
        self.path = path
        self.size = size
        self.offset = 0
        self.round = 0
        self.header: Header | None = None
        self._known = {} if known is None else known
        self._headers = self._header_bytes = self._header_values = 0

    def frames(self) -> Iterator[Frame]:
        """All whole frames.

        Raises:
            LedgerError: At the first that is damaged; it names number, round and offset.
        """
        preamble = self.file.read(len(PREAMBLE))
        if not preamble or preamble[: len(MAGIC)] != MAGIC[: len(preamble)]:
            self._refuse("it does not begin with the magic of a ledger")
        if len(preamble) == len(PREAMBLE) and preamble != PREAMBLE:
            number = int.from_bytes(preamble[len(MAGIC) :], "little")
            self._refuse(f"it says it is of format {number}, this version reads format {fmt.FORMAT}")
        self.offset, chain, closed = len(preamble), fmt.first_chain(), False
        while self.offset < self.size:
            if closed:
                self._refuse("there are bytes after the closing frame")
            frame = self._next(chain)
            if frame is None:
                break
            yield frame
            chain, self.offset = frame.chain, frame.end
            closed = isinstance(frame.value, Closing)
        if self.header is None:
            self._refuse("the file ends inside it")

    def _next(self, previous: bytes) -> Frame | None:
        """The frame that begins here; None if the file ends inside it."""
        left = self.size - self.offset
        prefix = self.file.read(fmt.PREFIX) if left >= fmt.PREFIX else b""
        if len(prefix) < fmt.PREFIX:
            return None
        found = fmt.read_prefix(prefix)
        if found is None:
            zeros = " (it is all zeros: the file system may have lost its last writes)" if not any(prefix) else ""
            self._refuse(f"its length does not agree with the length's own checksum{zeros}")
        kind, size = found
        self._check_size(kind, size)
        if left < fmt.PREFIX + size + fmt.CHAIN:  # looked at before anything of that size is allocated
            return None
        body, chain = self.file.read(size), self.file.read(fmt.CHAIN)
        if len(chain) < fmt.CHAIN:  # cut shorter by someone while it was read
            return None
        if chain != fmt.chained(previous, prefix, body):
            self._refuse(self._what_broke(kind, body))
        try:
            value = self._header(body, chain) if kind == Kind.HEADER else self._value(kind, body)
        except LedgerError:
            raise
        except (ValueError, OverflowError, RecursionError) as error:
            self._refuse(str(error)[:300])
        return Frame(self.offset, self.offset + fmt.PREFIX + size + fmt.CHAIN, chain, value)

    def _check_size(self, kind: int, size: int) -> None:
        if self.header is None and kind != Kind.HEADER:
            self._refuse(f"a frame of kind {kind} stands where the header must")
        if kind > Kind.CLOSING:
            self._refuse(f"no frame is of kind {kind}")
        if kind == Kind.HEADER:
            if not 1 <= size <= fmt.MAX_HEADER:
                self._refuse(f"a header of {size} bytes must have between 1 and {fmt.MAX_HEADER}")
            self._headers, self._header_bytes = self._headers + 1, self._header_bytes + size
            self._bound("headers", self._headers, bounds.LEDGER_HEADERS)
            self._bound("bytes of headers", self._header_bytes, bounds.LEDGER_HEADERS_BYTES)
        if kind == Kind.CLOSING and size != fmt.CLOSING_SIZE:
            self._refuse(f"a closing frame of {size} bytes must have {fmt.CLOSING_SIZE}")
        if kind == Kind.RECORD and self.header is not None:
            tau, cohort = self.header.local_steps, self.header.cohort
            found, own = fmt.directions_of(size, tau, cohort), self.header.own_directions
            if found is None or (own and found % cohort):
                what = " and directions of each client's own" if own else ""
                self._refuse(f"no record with tau={tau} and a cohort of {cohort}{what} has {size} bytes")

    def _bound(self, what: str, found: int, most: int) -> None:
        if found > most:
            self._refuse(f"this makes {found} {what}, and a ledger may have {most}")

    def _header(self, body: bytes, chain: bytes) -> Header:
        """The header of a frame, which is decoded once for all passes."""
        self._header_values += sum(map(body.count, (b",", b"[", b"{")))
        self._bound("values in headers", self._header_values, bounds.LEDGER_HEADERS_VALUES)
        header = self._known.get((self.offset, chain))
        if header is None:
            header = Header.decode(body)
            if self.header is not None and (what := difference(self.header, header, (*FREE, *CHANGEABLE))):
                self._refuse(f"a later header is of another run: {what}")
            self._known[self.offset, chain] = header
        self.header = header
        return header

    def _value(self, kind: int, body: bytes) -> RoundRecord | Closing:
        if kind == Kind.CLOSING:
            closing = fmt.unpack_closing(body)
            if closing.rounds != self.round:
                self._refuse(f"the closing frame is of {closing.rounds} rounds, but {self.round} are there")
            return closing
        assert self.header is not None
        if fmt.round_of(body) != self.round or self.round >= fmt.MAX_ROUNDS:
            self._refuse(f"it is of round {fmt.round_of(body)}, round {self.round} comes next")
        record = fmt.unpack_record(body, self.header.local_steps, self.header.cohort)
        self.round += 1
        return record

    def _what_broke(self, kind: int, body: bytes) -> str:
        if kind == Kind.RECORD and fmt.round_of(body) != self.round:
            return (
                f"it says it is of round {fmt.round_of(body)} where round {self.round} comes next, and its checksum "
                "does not follow from what is before it: a record was altered, dropped, repeated or moved"
            )
        return "its checksum does not follow from what is before it: it was altered, or something before it is gone"

    def _refuse(self, what: str) -> NoReturn:
        what = what.encode("unicode_escape").decode()  # it may quote the file, and reach a terminal
        if self.header is None:
            raise LedgerError(f"{self.path}: header (byte {self.offset}): {what}", offset=self.offset)
        raise LedgerError(
            f"{self.path}: record {self.round} (round {self.round}, byte {self.offset}): {what}",
            number=self.round,
            round=self.round,
            offset=self.offset,
        )
