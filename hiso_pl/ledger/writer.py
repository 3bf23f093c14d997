"""Writing a ledger: a frame a round, handed to the file system before the next round begins."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from hiso_pl.ledger import format as fmt
from hiso_pl.ledger.compare import CHANGEABLE, FREE, difference, with_options_of
from hiso_pl.ledger.format import PREAMBLE, Closing, Kind, LedgerError
from hiso_pl.ledger.header import Header
from hiso_pl.ledger.reader import LedgerReader
from hiso_pl.ledger.same_record import check_equal, is_of
from hiso_pl.ledger.stored import write_stored
from hiso_pl.ledger.walk import Frame
from hiso_pl.run.whole_file import whole_file
from hiso_pl.zeroth_order.record import RoundRecord

log = logging.getLogger(__name__)


class LedgerWriter:
    """A ledger being written, by one process.

    Every record is written and handed to the operating system at once, so it outlives the process, and by :meth:`sync`
    the machine too. Where a run goes on from an earlier round than the ledger's last, :meth:`append` compares what it
    is given with what is there, and writes once that is used up.

    Args:
        path: The ledger. There must be none yet.
        header: What it says of the run.
        tensors: Values at the start of the tensors that the header says are stored, by name; others are not looked at.

    Raises:
        ValueError: If there is one already, or a tensor is not what the header says.
        OSError: If it cannot be written.
    """

    def __init__(self, path: Path | str, header: Header, tensors: Mapping[str, Tensor] | None = None) -> None:
        self.path = Path(path)
        if self.path.exists():
            raise LedgerError(f"{self.path} exists: resume its run, or give another folder")
        write_stored(self.path, header, tensors or {})
        first = fmt.frame(Kind.HEADER, header.encode(), fmt.first_chain())
        with whole_file(self.path) as part:  # a ledger that can be seen has a whole header
            part.write_bytes(PREAMBLE + first)
        end = len(PREAMBLE) + len(first)
        self._open(header, 0, end, first[-fmt.CHAIN :], end)

    @classmethod
    def resume(
        cls,
        path: Path | str,
        header: Header,
        round: int,
        changed: bool = False,
        digest: str | None = None,
        anew: RoundRecord | None = None,
    ) -> LedgerWriter:
        """Goes on writing the ledger of a run that stands before ``round``.

        All of the ledger is checked first, and compared with what the run says of itself now. A torn tail is cut off.
        Later records are kept, and compared with those that :meth:`append` is given. Where options were ``changed`` on
        purpose everything from ``round`` on, which was made without the change, is cut off, and a further header says
        what follows. Of a run that makes rounds ``anew``, with other noise, they are cut off too, and the record
        before ``round`` must be the one given, by which the state was moved last. A ledger that was closed at ``round``
        must have been with the ``digest`` of the run's state.

        Raises:
            LedgerError: If the ledger is damaged, is of another run or state, or ends before ``round``.
            OSError: If it cannot be read or written.
        """
        reader = LedgerReader(path)
        survey = reader.survey()
        if survey.closed_otherwise(round, digest):
            raise LedgerError(
                f"{path} was closed after {round} rounds with another digest than the state has that this run goes on "
                f"from, {digest}: that is not what its records lead to; --ckpt_path ledger goes on from them"
            )
        if survey.rounds < round:
            raise LedgerError(
                f"{path} ends after round {survey.rounds - 1}, so it cannot go on with round {round}: "
                "resume from an earlier checkpoint, or from the ledger"
            )
        before, after = reader.around(round)
        if anew is not None and not is_of(before, anew):
            raise LedgerError(
                f"{path}: the rounds up to {round - 1} were made again after the checkpoint that this run goes on "
                "from, with other noise; --ckpt_path ledger goes on from what is there"
            )
        writer = cls.__new__(cls)
        writer.path = Path(path)
        in_force = [h for at, h in survey.headers if at <= round][-1]
        what = difference(in_force, header)
        if what is None and (anew is None or survey.rounds <= round):
            pending = reader.after(after.end) if after.end < survey.end else None
            writer._open(in_force, round, survey.end, survey.chain, survey.size, pending, survey.closing)
            if survey.torn_at is not None:
                log.warning("%s was torn: its last bytes, from byte %d on, are cut off.", path, survey.torn_at)
                writer._cut(survey.torn_at)
            return writer
        fixed = difference(in_force, header, (*FREE, *CHANGEABLE))
        if fixed is not None or (what is not None and not changed):
            raise LedgerError(f"{path} is of another run: {fixed or what}")
        if survey.rounds > round:
            why = "as options were changed" if what is not None else "as they are made again with other noise"
            log.warning("%s: rounds %d to %d are cut off, %s.", path, round, survey.rounds - 1, why)
        old = [reader.header, *(h for at, h in survey.headers if at < round)][-1]
        writer._open(old, round, before.end, before.chain, survey.size)
        writer._cut(before.end)
        if difference(old, header) is not None:
            writer.header = with_options_of(old, header)
            writer._write(fmt.frame(Kind.HEADER, writer.header.encode(), writer._chain))
        return writer

    def _open(
        self,
        header: Header,
        round: int,
        end: int,
        chain: bytes,
        size: int,
        pending: Iterator[Frame] | None = None,
        closing: Closing | None = None,
    ) -> None:
        self.header, self.round = header, round
        self._end, self._chain, self._size = end, chain, size
        self._pending, self._closing = pending, closing
        self._fd = os.open(self.path, os.O_RDWR)

    def append(self, record: RoundRecord) -> None:
        """Writes the record of the round that comes next, or compares it with the one that is there.

        Raises:
            LedgerError: If it is of another round or shape, or differs from the one that is there.
            OSError: If it cannot be written; the ledger then ends with the record before.
        """
        if record.round != self.round:
            raise LedgerError(f"{self.path}: a record of round {record.round} was given, round {self.round} comes next")
        if (record.scalars.shape[0], record.cohort) != (self.header.local_steps, self.header.cohort):
            raise LedgerError(
                f"{self.path}: round {record.round} has tau={record.scalars.shape[0]} and a cohort of "
                f"{record.cohort}, its header says tau={self.header.local_steps} and {self.header.cohort}"
            )
        there = next(self._pending, None) if self._pending is not None else None
        if there is None:
            self._pending = None
            self._write(fmt.frame(Kind.RECORD, fmt.pack_record(record), self._chain))
        else:
            check_equal(self.path, there, record)
        self.round += 1

    def sync(self) -> None:
        """Waits until the disk has everything: before a checkpoint is written that counts on it."""
        if self._fd >= 0:  # closing has waited already
            os.fsync(self._fd)

    def close(self, digest: str | None = None) -> None:
        """Ends the writing. A ledger closed already stays as it is.

        Args:
            digest: Digest of the state after the last round, if the run ended well.

        Raises:
            LedgerError: If the ledger was closed at this round with another digest.
        """
        if self._fd < 0:
            return
        try:
            if digest is not None:
                self._write_closing(Closing(self.round, digest))
            os.fsync(self._fd)
        finally:
            os.close(self._fd)
            self._fd = -1

    def cut_back(self, round: int) -> None:
        """Cuts off the records from ``round`` on, which were made by ranks out of step; nothing is written after it.

        Raises:
            LedgerError: If what is before them is damaged, or the file was changed by another process.
            OSError: If the file cannot be written.
        """
        _, after = LedgerReader(self.path).around(round)
        self._cut(after.end)
        self.close()

    def __enter__(self) -> LedgerWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_closing(self, closing: Closing) -> None:
        if self._pending is not None and next(self._pending, None) is not None:
            log.info("%s goes on beyond round %d and stays as it is.", self.path, self.round - 1)
        elif self._closing is None:
            self._write(fmt.frame(Kind.CLOSING, fmt.pack_closing(closing), self._chain))
        elif self._closing != closing:
            raise LedgerError(
                f"{self.path} was closed after {self._closing.rounds} rounds with digest {self._closing.digest}, "
                f"this run has {closing.digest} after {closing.rounds}: one of the two is damaged"
            )

    def _write(self, data: bytes) -> None:
        """Writes a frame where the last one ends, over a closing frame if there is one."""
        if self._closing is not None:
            self._cut(self._end)
            self._closing = None
        self._check_unchanged()
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._fd, data[written:], self._end + written)
        except OSError as error:
            os.truncate(self._fd, self._end)  # a full disk leaves whole records
            error.filename = str(self.path)
            raise
        self._end = self._size = self._end + len(data)
        self._chain = data[-fmt.CHAIN :]

    def _cut(self, end: int) -> None:
        """Makes the file end there."""
        self._check_unchanged()
        os.truncate(self._fd, end)
        self._size = end

    def _check_unchanged(self) -> None:
        """Sees to it that nobody else has written: what two processes write would be no ledger.

        Raises:
            LedgerError: If the file ends elsewhere, or with something else, or another one is in its place.
        """
        facts, size = os.fstat(self._fd), self._size
        try:
            same = os.path.samestat(facts, self.path.stat())
        except FileNotFoundError:
            same = False
        if not same:
            what = "another file is in its place, or none"
        elif facts.st_size != size:
            what = f"it has {facts.st_size} bytes and not {size}"
        elif os.pread(self._fd, fmt.CHAIN, self._end - fmt.CHAIN) != self._chain:
            what = f"it holds another record before byte {self._end}"
        else:
            return
        advice = "so nothing more is written: end the other run, and resume this one"
        raise LedgerError(f"{self.path} was changed by another process ({what}), {advice}", self.round, self.round)
