"""A file that says which clients are there in which rounds."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from hiso_pl.data import Trace
from hiso_pl.data.trace import LIMITS


@pytest.fixture
def trace(tmp_path: Path):
    def trace(text: str, suffix: str = ".csv", **options: bool) -> Trace:
        path = tmp_path / f"trace{suffix}"
        path.write_text(text)
        return Trace(str(path), **options)

    return trace


def there(found: Trace, clients: int, rounds: int) -> list[list[int]]:
    """The clients of each round."""
    return [np.flatnonzero(found.there(0, np.arange(clients), r)).tolist() for r in range(rounds)]


def test_clients_are_there_when_the_file_says_so(trace) -> None:
    stays = trace("client,first,last\n3,0,1\n1,2,4\n1,1,2\n3,4,4\n1,4,4\n")
    expected = [[3], [1, 3], [1], [1], [1, 3], [], []]
    assert there(stays, 5, 7) == expected
    single = "client\tround\n" + "".join(f"{c}\t{r}\n" for r, found in enumerate(expected) for c in reversed(found))
    assert there(trace(single, ".tsv"), 5, 7) == expected
    lines = "".join(f'{{"client": {c}, "round": {r}}}\n' for r, found in enumerate(expected) for c in found)
    assert there(trace(lines, ".jsonl"), 5, 7) == expected
    again = trace("client,first,last\n3,0,1\n1,2,4\n1,1,2\n3,4,4\n1,4,4\n", repeat=True)
    assert again.fingerprint() == stays.fingerprint() != trace("client,round\n3,0\n").fingerprint()
    assert there(again, 5, 12) == (expected[:5] * 3)[:12]


def test_any_stays_are_those_of_a_plain_loop(trace) -> None:
    draws = np.random.default_rng(5)
    rows = [(c, f, f + int(d)) for c, f, d in draws.integers(0, 12, (60, 3)).tolist()]
    found = there(trace("client,first,last\n" + "".join(f"{c},{f},{last}\n" for c, f, last in rows)), 12, 30)
    assert found == [sorted({c for c, f, last in rows if f <= r <= last}) for r in range(30)]


def test_rounds_without_anybody_are_said_or_refused(trace, caplog) -> None:
    found = trace("client,first,last\n0,2,3\n1,6,7\n")
    with caplog.at_level(logging.WARNING, logger="hiso_pl"):
        found.check(2, range(12))
    assert caplog.messages[0].endswith(
        "leaves 8 of 12 rounds without anybody, the first of them round 0: they move nothing."
    )
    with pytest.raises(ValueError, match=r"names nobody in rounds 0 to 1, which trainer.max_steps=2 asks for"):
        found.check(2, range(2))
    with pytest.raises(ValueError, match=r"names client 1, must be below clients=1$"):
        found.check(1, range(12))
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="hiso_pl"):
        trace("client,first,last\n0,0,5\n1,4,11\n").check(2, range(12))
        trace("client,first,last\n0,0,1\n", repeat=True).check(2, range(12))
    assert not caplog.messages


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty, a header line expected"),
        ("client,round\n", "no rows, so it names no client$"),
        ("who,round\n1,2\n", "has columns who, round, must have client and round, or client, first, last"),
        ("client,round,first\n1,2,3\n", "must have client and round"),
        ("client,round\n1,-2\n", r"line 2: round='-2' must be a whole number in \[0, 4294967296\)"),
        ("client,round\n1,2\n1,2.5\n", r"line 3: round='2.5' must be a whole number"),
        ("client,round\n1,\n", r"line 2: round='' must be"),
        ("client,round\n1,99999999999999999999\n", "line 2: round='99999999999999999999' must be"),
        ("client,round\nfour,2\n", "line 2: client='four' must be"),
        ("client,round\n1,2\n3\n", "line 3: 1 columns, 2 expected"),
        ("client,first,last\n1,5,4\n", "line 2: last=4 must be at least first=5"),
    ],
)
def test_a_file_that_is_no_trace(trace, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        trace(text).check(9, range(5))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        Trace(str(tmp_path / "none.csv")).check(9, range(5))
    with pytest.raises(ValueError, match=r"must end in \.tsv, \.csv"):
        Trace(str(tmp_path / "none.txt")).check(9, range(5))
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ValueError, match=r"cannot be read: it is a FIFO"):
        Trace(str(tmp_path / "pipe.csv")).check(9, range(5))
    large = tmp_path / "large.csv"
    with large.open("wb") as file:
        file.truncate(12 << 30)  # a thousand million lines; it takes no room
    with pytest.raises(ValueError, match=rf"has {12 << 30} bytes, must have at most bytes={LIMITS.bytes}$"):
        Trace(str(large)).check(9, range(5))
