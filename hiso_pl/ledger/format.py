r"""The ledger's file format, byte by byte: ``format: 2``.

All numbers are little-endian. A file is a magic, a format number and a sequence of frames::

    offset  size  what
    0       8     magic: 89 48 49 53 4f 50 4c 0a ("\x89HISOPL\n")
    8       4     format number, u32: 2
    12            frames

A frame::

    0       4     word, u32: kind << 30 | n, where n is the size of the body in bytes
    4       4     CRC-32 (the zlib polynomial) of the four bytes of the word
    8       n     body
    8 + n   8     chain checksum: the first 8 bytes of SHA-256(previous chain checksum + bytes 0 to 7 + n of the frame)

The previous chain checksum of the first frame is the first 8 bytes of SHA-256(bytes 0 to 11 of the file). So every
checksum covers everything before it, and a frame that is altered, dropped, repeated or moved breaks the chain.

Kinds of frames:

**1, header.** The first frame, and it alone, must be one. The body is canonical JSON (keys sorted, no spaces, ASCII,
floats as Python's ``repr`` spells them, which loses nothing, no NaN or infinity), at most 16 MiB. Its fields are those
of :class:`~hiso_pl.ledger.header.Header`; of the method, parts go by name with their options, and what is absent has
its default, so that a new part or option needs no new format. Another header may stand between two records where a run
was resumed with options changed by name: what follows it was made with its options. Seed, stream, numerics and tensors
stay the same.

**0, record.** One a round, from round 0 on, none left out. With tau, P directions and a cohort of m slots, tau and m
taken from the header in force::

    0       4            round, u32
    4       8            lr, float64
    12      8            mu, float64
    20      2            P, u16, from 1 to 16383; where clients have directions of their own that is m times theirs
    22      4 tau P      aggregated scalars ghat[k,p], float32, p fastest
    ...     ceil(m/8)    slots dropped: slot s is bit s & 7 of byte s >> 3, least significant first; unused bits are 0

A frame of it takes ``38 + 4 tau P + ceil(m/8)`` bytes. The cohort's clients are derived from the seed, not stored.

**2, closing.** Written when a run has ended well, and nothing follows it; a run that goes on overwrites it::

    0       4     number of rounds, u32
    4       32    digest of the state after the last round

A file is *torn* if it ends inside a frame: in its first 8 bytes, or beyond them where the word is right. What is whole
before that can be used, and who goes on writing cuts the rest off. Anything else that is wrong is an error, a last
frame that is complete but has another checksum included: that is not what an interrupted write leaves.

Tensors that are not among the named weights lie beside the ledger, in a safetensors file whose name is the ledger's
with ``.safetensors`` added. The header holds their SHA-256.

Vector: :data:`VECTOR_RECORD` after :data:`VECTOR_CHAIN` becomes :data:`VECTOR_FRAME`.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hiso_pl.zeroth_order.philox import MAX_DIRECTIONS
from hiso_pl.zeroth_order.record import RoundRecord, SlotSet

MAGIC = b"\x89HISOPL\n"
FORMAT = 2
PREAMBLE = MAGIC + struct.pack("<I", FORMAT)
MAX_HEADER = 16 << 20
MAX_ROUNDS = (1 << 32) - 1

PREFIX = 8
"""Bytes before a frame's body."""
CHAIN = 8
"""Bytes after it."""
SUFFIX = ".safetensors"
"""What a ledger's name is lengthened by for the tensors beside it."""

VECTOR_CHAIN = bytes.fromhex("0011223344556677")
VECTOR_RECORD = RoundRecord(
    round=7, lr=1e-3, mu=2.0**-10, scalars=np.array([[0.5, -2.0]], np.float32), cohort=3, dropped=(1,)
)
VECTOR_FRAME = bytes.fromhex(
    "1f000000 d5983e29 07000000 fca9f1d24d62503f 000000000000503f 0200 0000003f 000000c0 02 b7ac5ae1cd3ac485"
)

_RECORD = struct.Struct("<IddH")
_CLOSING = struct.Struct("<I32s")
CLOSING_SIZE = _CLOSING.size


class Kind(IntEnum):
    """What a frame is: the top two bits of its word."""

    RECORD = 0
    HEADER = 1
    CLOSING = 2


class Closing(NamedTuple):
    """The end of a run.

    Attributes:
        rounds: Number of rounds.
        digest: Digest of the state after them, 64 hexadecimal digits.
    """

    rounds: int
    digest: str


class LedgerError(ValueError):
    """A ledger that is damaged, or is not the one that is needed.

    Attributes:
        number: The record's place in the file, from 0; None if the error is of the header or the whole file.
        round: The round that the record says it is of, or that comes next where it cannot be read.
        offset: Where the frame begins, in bytes.
    """

    def __init__(
        self, message: str, number: int | None = None, round: int | None = None, offset: int | None = None
    ) -> None:
        super().__init__(message)
        self.number, self.round, self.offset = number, round, offset


def stored_path(path: Path | str) -> Path:
    """Where the tensors beside a ledger lie, by the ledger's own path."""
    path = Path(path)
    return path.with_name(path.name + SUFFIX)


def chained(previous: bytes, *content: bytes) -> bytes:
    """The chain checksum of a frame, given the one before it and the frame's bytes up to the checksum, in pieces."""
    sha = hashlib.sha256(previous)
    for piece in content:
        sha.update(piece)
    return sha.digest()[:CHAIN]


def first_chain() -> bytes:
    """The checksum that the first frame's own is chained to."""
    return hashlib.sha256(PREAMBLE).digest()[:CHAIN]


def frame(kind: Kind, body: bytes, previous: bytes) -> bytes:
    """A whole frame; its last 8 bytes are the next frame's ``previous``.

    Raises:
        ValueError: If the body is too long for its size to be written.
    """
    if len(body) >= 1 << 30:
        raise ValueError(f"a frame of {len(body)} bytes must be smaller than 2**30: fewer local steps or directions")
    word = struct.pack("<I", kind << 30 | len(body))
    content = word + struct.pack("<I", zlib.crc32(word)) + body
    return content + chained(previous, content)


def read_prefix(prefix: bytes) -> tuple[int, int] | None:
    """Kind and body size from a frame's first 8 bytes; None if their checksum is not theirs."""
    word, check = struct.unpack("<II", prefix)
    return (word >> 30, word & (1 << 30) - 1) if zlib.crc32(prefix[:4]) == check else None


def directions_of(size: int, local_steps: int, cohort: int) -> int | None:
    """P of a record whose body has so many bytes; None if no record has."""
    scalars = size - _RECORD.size - _bitmap_size(cohort)
    directions, rest = divmod(scalars, 4 * local_steps)
    return directions if rest == 0 and 1 <= directions < MAX_DIRECTIONS else None


def pack_record(record: RoundRecord) -> bytes:
    """The body of a record."""
    if isinstance(record.dropped, SlotSet):
        bitmap = bytearray(record.dropped.bits.tobytes())
    else:
        bitmap = bytearray(_bitmap_size(record.cohort))
        for slot in record.dropped:
            bitmap[slot >> 3] |= 1 << (slot & 7)
    fixed = _RECORD.pack(record.round, record.lr, record.mu, record.scalars.shape[1])
    return fixed + record.scalars.astype("<f4").tobytes() + bytes(bitmap)


def unpack_record(body: bytes, local_steps: int, cohort: int) -> RoundRecord:
    """A record from its body, whose size has been found to be one that a record can have.

    Raises:
        ValueError: If its fields contradict each other or cannot be.
    """
    round, lr, mu, directions = _RECORD.unpack_from(body)
    if directions != directions_of(len(body), local_steps, cohort):
        raise ValueError(f"P={directions} does not go with its size of {len(body)} bytes")
    count = local_steps * directions
    scalars = np.frombuffer(body, "<f4", count, _RECORD.size).astype(np.float32).reshape(local_steps, directions)
    bits = np.frombuffer(body, np.uint8, -1, _RECORD.size + 4 * count)
    dropped = SlotSet(bits.copy()) if bits.any() else ()
    return RoundRecord(round, lr, mu, scalars, cohort, dropped)


def round_of(body: bytes) -> int:
    """The round that a record's body says it is of."""
    return int.from_bytes(body[:4], "little")


def pack_closing(closing: Closing) -> bytes:
    """The body of a closing frame."""
    return _CLOSING.pack(closing.rounds, bytes.fromhex(closing.digest))


def unpack_closing(body: bytes) -> Closing:
    """A closing frame from its body, whose size has been found to be right."""
    rounds, digest = _CLOSING.unpack(body)
    return Closing(rounds, digest.hex())


def _bitmap_size(cohort: int) -> int:
    return -(-cohort // 8)
