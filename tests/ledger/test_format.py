"""The bytes of a ledger: they are a file format, so they never change."""

import hashlib
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiso_pl.ledger import Header
from hiso_pl.ledger import format as fmt
from hiso_pl.zeroth_order import RoundRecord


def test_the_vector_of_the_documentation():
    framed = fmt.frame(fmt.Kind.RECORD, fmt.pack_record(fmt.VECTOR_RECORD), fmt.VECTOR_CHAIN)
    assert framed == fmt.VECTOR_FRAME
    word = struct.pack("<I", 31)
    by_hand = word + struct.pack("<I", zlib.crc32(word)) + struct.pack("<IddH", 7, 1e-3, 2.0**-10, 2)
    by_hand += struct.pack("<2f", 0.5, -2.0) + b"\x02"
    assert framed == by_hand + hashlib.sha256(fmt.VECTOR_CHAIN + by_hand).digest()[:8]


def test_a_ledger_read_by_the_documentation_alone(ledger):
    """Nothing of the package reads here: only what the module's docstring says."""
    data = ledger.read_bytes()
    assert data[:12] == bytes.fromhex("89 48 49 53 4f 50 4c 0a 02 00 00 00")
    chain, at, bodies = hashlib.sha256(data[:12]).digest()[:8], 12, []
    while at < len(data):
        word, check = struct.unpack_from("<II", data, at)
        assert zlib.crc32(data[at : at + 4]) == check
        kind, n = word >> 30, word & 0x3FFFFFFF
        content, own = data[at : at + 8 + n], data[at + 8 + n : at + 16 + n]
        assert hashlib.sha256(chain + content).digest()[:8] == own
        bodies.append((kind, content[8:]))
        chain, at = own, at + 16 + n
    assert [kind for kind, _ in bodies] == [1, *[0] * 10, 2]
    header = json.loads(bodies[0][1])
    assert json.dumps(header, sort_keys=True, separators=(",", ":")).encode() == bodies[0][1]
    assert header["method"]["local_steps"] == 1
    assert struct.unpack_from("<IddH", bodies[5][1]) == (4, 1e-3, 1e-3, 3)
    assert bodies[5][1][-1] == 0b010
    assert bodies[-1][1] == struct.pack("<I", 10) + bytes.fromhex("ab" * 32)


@given(
    tau=st.integers(1, 4),
    directions=st.integers(1, 9),
    cohort=st.integers(1, 40),
    round=st.integers(0, 2**32 - 2),
    lr=st.floats(0, 1e300),
    mu=st.floats(1e-300, 1e300),
    data=st.data(),
)
def test_records_come_back_to_the_bit_and_are_as_small_as_promised(tau, directions, cohort, round, lr, mu, data):
    floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
    values = data.draw(st.lists(floats, min_size=tau * directions, max_size=tau * directions))
    scalars = np.array(values, dtype=np.float32).reshape(tau, directions)
    dropped = tuple(sorted(data.draw(st.sets(st.integers(0, cohort - 1)))))
    record = RoundRecord(round, lr, mu, scalars, cohort, dropped)
    body = fmt.pack_record(record)
    assert len(fmt.frame(fmt.Kind.RECORD, body, b"")) <= 4 * tau * directions + -(-cohort // 8) + 40
    assert fmt.directions_of(len(body), tau, cohort) == directions
    back = fmt.unpack_record(body, tau, cohort)
    assert (back.round, back.lr, back.mu, back.dropped) == (round, lr, mu, dropped)
    assert back.scalars.tobytes() == scalars.tobytes()  # -0.0 and denormal numbers too


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_numbers_of_the_configuration_lose_nothing(ledger_header, value):
    fields = {**vars(ledger_header), "configuration": {"x": [value], "day": None}}
    back = Header.decode(Header(**fields).encode())
    found = back.configuration["x"][0]
    assert found == (value if np.isfinite(value) else repr(value))
    assert Header.decode(back.encode()) == back


@pytest.fixture(scope="module")
def ledger_header():
    import torch

    from hiso_pl.ledger import header_of
    from hiso_pl.zeroth_order import Diagonal, Method

    method = Method(preconditioner=Diagonal(nu=0.1))
    return header_of(
        [("w", torch.ones(2))],
        method,
        seed=2**64 - 1,
        clients=2,
        cohort=1,
        frozen_sha256="0" * 64,
        configuration={},
        versions={},
    )


def test_a_record_too_long_for_its_size_is_refused_before_it_is_written():
    with pytest.raises(ValueError, match="smaller than"):
        fmt.frame(fmt.Kind.RECORD, bytes(1 << 30), b"")


def test_a_seed_of_64_bits_comes_back(ledger_header):
    assert Header.decode(ledger_header.encode()).seed == 2**64 - 1
