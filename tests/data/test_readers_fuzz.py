"""Whatever bytes a file holds, reading it gives rows of text or one line that names the file."""

from __future__ import annotations

import io
import json
import random

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hiso_pl.data.limits import ReadLimits
from hiso_pl.data.readers import SUFFIXES, parse_rows
from tests.isolated import fuzz

pytestmark = pytest.mark.timeout(300)

LIMITS = ReadLimits()
ROWS = [
    {"sentence": f'row {i}, "quoted"', "label": i % 2, "more": None if i % 3 else [i, {"a": "ä"}]} for i in range(7)
]


def parquet() -> bytes:
    file = io.BytesIO()
    table = pyarrow.table({"sentence": [row["sentence"] for row in ROWS], "label": [row["label"] for row in ROWS]})
    pyarrow.parquet.write_table(table, file, row_group_size=3)
    return file.getvalue()


WHOLE = {
    ".tsv": b"sentence\tlabel\n" + b"".join(f"{row['sentence']}\t{row['label']}\r\n".encode() for row in ROWS),
    ".csv": b"sentence,label\n" + b"".join(b'"a, ""b""\nc",%d\n' % i for i in range(7)),
    ".jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in ROWS),
    ".parquet": parquet(),
    ".json": json.dumps({"version": "1", "data": ROWS}, indent=1).encode(),
}
assert tuple(WHOLE) == SUFFIXES


def check(suffix: str, data: bytes, limits: ReadLimits = LIMITS) -> None:
    """Rows of text with numbers that go up, or a refusal that names the file."""
    try:
        rows = parse_rows(f"table{suffix}", io.BytesIO(data), limits)
    except ValueError as error:
        named = type(error) is ValueError and str(error).startswith(f"table{suffix}")
        assert named, repr(error)  # noqa: PT017  # either outcome is right
        return
    numbers = [number for number, _ in rows]
    assert rows
    assert numbers == sorted(set(numbers))
    for _, row in rows:
        assert all(isinstance(name, str) and isinstance(value, str) for name, value in row.items())
        assert all((name + value).encode() is not None for name, value in row.items())


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_bytes(suffix, data):
    check(suffix, data.draw(st.binary(max_size=300)))


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whole_files_with_bytes_changed_or_lost(suffix, data):
    content = bytearray(WHOLE[suffix])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    check(suffix, bytes(content[: data.draw(st.integers(0, len(content)))]))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(values, max_size=4))
@example([{"sentence": "\ud800"}])  # half of a pair of surrogates, which JSON can spell and UTF-8 cannot
@example([{"a": 10**400}])
@settings(max_examples=200, deadline=None)
def test_any_json(lines):
    check(".jsonl", b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    check(".json", json.dumps(lines).encode())


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_nesting_without_end(opening):
    check(".jsonl", opening * 100_000)
    check(".json", opening * 100_000)


def test_numbers_of_very_many_digits():
    check(".jsonl", b'{"a": ' + b"1" * 100_000 + b"}")


# Many cases, in a process with little memory: HISO_PL_FUZZ says how many


def nested() -> bytes:
    file = io.BytesIO()
    rows = pyarrow.Table.from_pylist(
        [{"s": f"text {i}" * 5, "l": ["a", None, str(i)], "d": {"x": [i], "y": None}, "f": i / 3} for i in range(60)]
    )
    pyarrow.parquet.write_table(rows, file, row_group_size=25, compression=["snappy", "zstd", "gzip", "none"][0])
    return file.getvalue()


PIECES = [
    b"\n",
    b"\t",
    b",",
    b'"',
    b"\r",
    b"\x00",
    b"\xff" * 8,
    b"{",
    b"[" * 5000,
    b'"\\ud800"',
    b"9" * 5000,
    b"1e999",
    b"NaN",
]


def altered(content: bytes, draw: random.Random) -> bytes:
    """Bytes changed, doubled, cut out or put in, some at the end, where Parquet's footer is."""
    data = bytearray(content)
    for _ in range(draw.randrange(1, 5)):
        place = (
            draw.randrange(len(data)) if draw.random() < 0.5 or len(data) < 700 else len(data) - draw.randrange(700) - 1
        )
        kind = draw.randrange(5)
        if kind == 0:
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[place] = draw.choice((0, 1, 127, 128, 255))
        elif kind == 2:
            data[place:place] = draw.choice(PIECES)
        elif kind == 3:
            del data[place : place + draw.randrange(20)]
        else:
            data[place:place] = data[place : place + draw.randrange(200)]
        data = data or bytearray(b"x")
    return bytes(data)


def one_file(number: int) -> None:
    draw = random.Random(number)
    suffix = SUFFIXES[number % len(SUFFIXES)]
    content = draw.choice((WHOLE[suffix], nested())) if suffix == ".parquet" else WHOLE[suffix]
    check(
        suffix,
        altered(content, draw),
        ReadLimits(bytes=draw.choice((300, 10_000, 2 << 30)), rows=draw.choice((5, 10**6))),
    )


def test_altered_files_in_little_memory():
    fuzz("tests.data.test_readers_fuzz", "one_file", cases=400, memory=1 << 30, seconds=10)
