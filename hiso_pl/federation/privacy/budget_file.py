"""The file of a private run's releases: written before anything is sent, and never going back.

A line of JSON for what they have in common, then one for each round about to be exchanged: ``{"round": 3, "clients":
[0, [4, 9]], "sum": ...}``, clients ascending, those from one to another as a pair of both. The sum of a line is made of
its text and of the sum before, so that no line can be altered, moved or left out unseen; lines lost at the end are
missed by checkpoint and ledger. A line that was being written when the process was killed has no end, and is cut off:
its exchange had not begun.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiso_pl import bounds
from hiso_pl.regular_file import open_regular
from hiso_pl.run.whole_file import whole_file

log = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True)
class Terms:
    """What all releases of a file have in common.

    Attributes:
        level: Whose data one release hides.
        noise_multiplier: sigma.
        clip: C.
        delta: Delta.
        accountant: Who counts.
        clients: Number of clients.
        sampling: What decides each client's sampling rate, in a word; empty where nothing is sampled.
        seed: The run's seed.
        run: A name of the run that no other has.
    """

    level: str
    noise_multiplier: float
    clip: float
    delta: float
    accountant: str
    clients: int
    sampling: str
    seed: int
    run: str = ""

    def check_same(self, other: Terms, path: Path, ignoring: Sequence[str] = ()) -> None:
        """Refuses releases that cannot be counted together with this run's.

        Raises:
            ValueError: If they are of another run, or by other terms; it names the first.
        """
        for name in ("level", "noise_multiplier", "clients", "sampling", "seed"):
            there, here = getattr(other, name), getattr(self, name)
            if there != here and name not in ignoring:
                raise ValueError(
                    f"{path} has releases with {name}={there}, this run has {here}, and they cannot be counted "
                    "together: go on as they were made, or start a new run in another folder"
                )


class BudgetFile:
    """The releases of a run, in its folder.

    Args:
        path: The file; it is made with the first release, so that a run that is refused leaves none.
        terms: What the run's releases have in common.
        source: The file that the run goes on from: its own or that of the checkpoint's run; None at the start.
        ignoring: Terms that may differ as it was asked for.

    Attributes:
        terms: What they have in common, by the file.
        lines: Rounds whose releases are in it, those that were made again counted again.
        rounds: Rounds from the first on of which each is there.
        found: Number of releases of each client that were in it when it was read.

    Raises:
        ValueError: If the file is damaged, or of another run.
        OSError: If it cannot be read.
    """

    def __init__(self, path: Path, terms: Terms, source: Path | None = None, ignoring: Sequence[str] = ()) -> None:
        self.path, self._fd = path, -1
        self.found: NDArray[np.int64] = np.zeros(terms.clients, dtype=np.int64)
        self.lines = self.rounds = self._end = 0
        if source is None:
            self.terms = Terms(**{**asdict(terms), "run": secrets.token_hex(8)})
            self._begin = _line({"format": FORMAT, **asdict(self.terms)}, "")
            self._sum = _sum_of(self._begin)
        else:
            self._begin = self._read(source, terms, ignoring)

    def _read(self, source: Path, terms: Terms, ignoring: Sequence[str]) -> bytes:
        """Takes over the releases of a file; returns its whole lines if they are to be copied."""
        kept: list[bytes] = []
        with open_regular(source) as file:
            self.terms, self._sum = _terms_of(source, line := file.readline(bounds.BUDGET_HEADER_BYTES))
            terms.check_same(self.terms, source, ignoring)
            while line.endswith(b"\n"):
                self._end += len(line)
                if source != self.path:
                    kept.append(line)
                line = file.readline(bounds.BUDGET_LINE_BYTES + bounds.BUDGET_CLIENT_BYTES * terms.clients)
                if line.endswith(b"\n"):
                    self._take(source, line)
            if any(b"\n" in block for block in iter(lambda: file.read(1 << 20), b"")):
                raise ValueError(f"{source} is damaged: line {self.lines + 2} is longer than that of any cohort")
        if line:
            log.warning("%s was torn: its last line, whose round had sent nothing yet, is cut off.", source)
        return b"".join(kept)

    def _take(self, source: Path, line: bytes) -> None:
        told, self._sum = _checked(source, self.lines + 2, line, self._sum)
        try:
            round, clients = _whole(told["round"]), _numbers(told["clients"], self.terms.clients)
            if len(told) > 2 or round > self.rounds:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{source} is damaged: line {self.lines + 2} tells no releases of the next round"
            ) from None
        self.found[clients] += 1
        self.lines, self.rounds = self.lines + 1, max(self.rounds, round + 1)

    def begin(self) -> None:
        """Makes the file if there is none yet, with the releases that it goes on from, and cuts off a torn line.

        Raises:
            OSError: If it cannot be written.
        """
        if self._fd >= 0:
            return
        if self._begin:
            if os.path.lexists(self.path):
                raise FileExistsError(errno.EEXIST, "it holds the releases of another run", str(self.path))
            with whole_file(self.path) as part:
                part.write_bytes(self._begin)
            self._end, self._begin = len(self._begin), b""
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # or the name could be lost with the power, and all releases with it
            finally:
                os.close(folder)
        self._fd = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        os.truncate(self._fd, self._end)

    def append(self, round: int, clients: Sequence[int]) -> None:
        """Writes down that clients are about to release in a round; the disk has it when this returns.

        Raises:
            OSError: If it cannot be written; the file is as before.
        """
        self.begin()
        line = _line({"round": round, "clients": _ranges(sorted(clients))}, self._sum)
        try:
            written = 0
            while written < len(line):
                written += os.pwrite(self._fd, line[written:], self._end + written)
            os.fsync(self._fd)
        except OSError as error:
            os.truncate(self._fd, self._end)
            error.filename = str(self.path)
            raise
        self._end, self._sum = self._end + len(line), _sum_of(line)
        self.lines, self.rounds = self.lines + 1, max(self.rounds, round + 1)

    def close(self) -> None:
        """Ends the writing; nothing of it is kept back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def terms_in(path: Path) -> Terms:
    """What the releases of a file have in common.

    Raises:
        ValueError: If it is damaged.
        OSError: If it cannot be read.
    """
    with open_regular(path) as file:
        return _terms_of(path, file.readline(bounds.BUDGET_HEADER_BYTES))[0]


def _terms_of(path: Path, line: bytes) -> tuple[Terms, str]:
    told, found = _checked(path, 1, line, "")
    if told.pop("format", None) != FORMAT:
        raise ValueError(f"{path} is of another format: this version reads format {FORMAT}")
    kinds = {field.name: {"str": str, "int": int, "float": float}[str(field.type)] for field in fields(Terms)}
    if told.keys() != kinds.keys() or any(type(told[name]) is not kind for name, kind in kinds.items()):
        raise ValueError(f"{path} is damaged: line 1 must tell {', '.join(kinds)}")
    return Terms(**told), found


def _line(told: Mapping[str, Any], before: str) -> bytes:
    """A line of the file; its sum is the first 16 digits of SHA-256 of the sum before and the line without its own."""
    text = json.dumps(told, separators=(",", ":"))[:-1]
    return f'{text},"sum":"{hashlib.sha256((before + text).encode()).hexdigest()[:16]}"}}\n'.encode()


def _sum_of(line: bytes) -> str:
    return line[-19:-3].decode()


def _checked(path: Path, number: int, line: bytes, before: str) -> tuple[dict[str, Any], str]:
    """What a line tells, and its sum, once that is right."""
    try:
        told = json.loads(line)
        del told["sum"]
        if _line(told, before) != line:
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(
            f"{path} is damaged: line {number} is not as it was written, so nobody knows what has been released; "
            "restore the file, or start a new run in another folder"
        ) from None
    return told, _sum_of(line)


def _ranges(numbers: Sequence[int]) -> list[int | list[int]]:
    """Ascending numbers, those from one to another as a pair of both."""
    if not numbers:
        return []
    cuts = np.flatnonzero(np.diff(numbers) != 1) + 1
    pieces = np.split(np.asarray(numbers), cuts)
    return [int(p[0]) if len(p) == 1 else [int(p[0]), int(p[-1])] for p in pieces]


def _numbers(told: Any, clients: int) -> NDArray[np.int64]:
    """The numbers that :func:`_ranges` told of."""
    pairs = [(one, one) if type(one) is int else (_whole(one[0]), _whole(one[1])) for one in told]
    ends = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    if (ends[:, 0] > ends[:, 1]).any() or (ends[1:, 0] <= ends[:-1, 1]).any() or (ends < 0).any():
        raise ValueError
    if len(ends) and ends[-1, 1] >= clients:
        raise ValueError
    return np.concatenate([np.arange(a, b + 1) for a, b in ends]) if len(ends) else np.zeros(0, dtype=np.int64)


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < bounds.ROUNDS:
        raise ValueError
    return value
