"""What is damaged, cut or made by someone else is told from what is right."""

import contextlib
import json
import os
import random
import re
import struct
import time
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hiso_pl.ledger import Header, LedgerError, LedgerReader, LedgerWriter, show
from hiso_pl.ledger import format as fmt
from hiso_pl.zeroth_order import Method, RoundRecord

EDITS = ("drop", "repeat", "flip", "insert", "cut")
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def frames_of(path: Path) -> list[bytes]:
    """The preamble and the bytes of every frame."""
    data, at = path.read_bytes(), 12
    found = [data[:12]]
    while at < len(data):
        size = struct.unpack_from("<I", data, at)[0] & 0x3FFFFFFF
        found.append(data[at : at + 16 + size])
        at += 16 + size
    return found


def read_all(path: Path) -> None:
    reader = LedgerReader(path)
    assert sum(1 for _ in reader) == reader.rounds


def refused(path: Path, data: bytes) -> LedgerError:
    path.write_bytes(data)
    with pytest.raises(LedgerError) as caught:
        read_all(path)
    message = str(caught.value)
    assert "\n" not in message
    if caught.value.number is None:
        assert "header (byte" in message
    else:
        assert f"record {caught.value.number} (round {caught.value.round}, byte {caught.value.offset})" in message
    return caught.value


def chained_again(path: Path, bodies: list[tuple[int, bytes]]) -> bytes:
    """A file of these frames whose checksums are all right, as someone would make it on purpose."""
    made, chain = [fmt.PREAMBLE], fmt.first_chain()
    for kind, body in bodies:
        made.append(fmt.frame(kind, body, chain))
        chain = made[-1][-8:]
    return b"".join(made)


def bodies_of(path: Path) -> list[tuple[int, bytes]]:
    return [(struct.unpack_from("<I", f)[0] >> 30, f[8:-8]) for f in frames_of(path)[1:]]


def test_a_whole_ledger(ledger):
    reader = LedgerReader(ledger)
    assert (reader.rounds, reader.survey().torn_at, reader.survey().closing) == (10, None, (10, "ab" * 32))
    assert [r.round for r in reader] == list(range(10))
    assert [r.scalars.shape[1] for r in reader] == [2 + r % 3 for r in range(10)]
    assert [r.dropped for r in reader if r.dropped] == [(1,)]


def test_a_thousand_damaged_bytes_are_all_found_and_named(ledger):
    """Of every byte of the file at least one, the rest at random; the error is of the frame that was hit."""
    frames, whole = frames_of(ledger), ledger.read_bytes()
    starts = [sum(map(len, frames[:i])) for i in range(len(frames))]
    chance = random.Random(7)
    places = [*range(len(whole)), *(chance.randrange(len(whole)) for _ in range(max(0, 1000 - len(whole))))]
    chance.shuffle(places)
    for place in places[:1000] + list(range(starts[2], len(whole))):
        data = bytearray(whole)
        data[place] ^= chance.randrange(1, 256)
        error = refused(ledger, bytes(data))
        hit = max(i for i, start in enumerate(starts) if start <= place)
        assert error.number == (None if hit < 2 else hit - 2)
        assert error.offset == (0 if hit == 0 else starts[hit])


def test_a_file_may_end_anywhere(ledger):
    """Inside a frame it is torn, and what is before can be used; between frames it is a shorter ledger."""
    frames, whole = frames_of(ledger), ledger.read_bytes()
    ends, total = [], 0
    for f in frames:
        total += len(f)
        ends.append(total)
    for size in range(ends[1]):
        refused(ledger, whole[:size])
    for size in range(ends[1], len(whole)):
        ledger.write_bytes(whole[:size])
        reader = LedgerReader(ledger)
        last = max(end for end in ends if end <= size)
        assert reader.rounds == ends.index(last) - 1
        assert reader.survey().torn_at == (None if size == last else last)
        assert reader.survey().closing is None
        assert len(list(reader)) == reader.rounds


def test_a_complete_last_record_with_a_wrong_checksum_is_no_torn_one(ledger):
    frames = frames_of(ledger)[:-1]
    frames[-1] = frames[-1][:-1] + bytes([frames[-1][-1] ^ 1])
    assert refused(ledger, b"".join(frames)).number == 9


@pytest.mark.parametrize("what", ["dropped", "repeated", "swapped", "first dropped", "closing repeated"])
def test_records_that_are_not_where_they_were(ledger, what):
    frames = frames_of(ledger)
    changed, number = {
        "dropped": (frames[:6] + frames[7:], 4),
        "repeated": (frames[:6] + frames[5:], 4),
        "swapped": ([*frames[:6], frames[7], frames[6], *frames[8:]], 4),
        "first dropped": (frames[:2] + frames[3:], 0),
        "closing repeated": ([*frames, frames[-1]], 10),
    }[what]
    error = refused(ledger, b"".join(changed))
    assert error.number == number
    if what == "dropped":
        assert "says it is of round 5 where round 4 comes next" in str(error)


def test_records_of_another_ledger_do_not_follow(ledger):
    frames, other = frames_of(ledger), bodies_of(ledger)
    header = json.loads(other[0][1])
    header["seed"] = 6
    other[0] = (other[0][0], json.dumps(header, sort_keys=True, separators=(",", ":")).encode())
    ledger.write_bytes(chained_again(ledger, other))
    foreign = frames_of(ledger)
    assert refused(ledger, b"".join([*frames[:4], *foreign[4:]])).number == 2


@pytest.mark.parametrize("skip", [3, 11])
def test_checksums_made_to_fit_do_not_help_a_record_that_is_missing(ledger, skip):
    bodies = bodies_of(ledger)
    del bodies[skip if skip < 11 else 10]
    error = refused(ledger, chained_again(ledger, bodies))
    assert error.number == (2 if skip == 3 else 9)
    assert ("it is of round 3, round 2 comes next" if skip == 3 else "10 rounds, but 9 are there") in str(error)


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [0, 1, 35, 37, (1 << 29) + 1, (1 << 30) - 1])
def test_lengths_are_looked_at_before_they_are_believed(ledger, kind, size):
    """Their own checksum is right, as someone would make it on purpose; the file is small."""
    start = b"".join(frames_of(ledger)[:4])
    word = struct.pack("<I", kind << 30 | size)
    ledger.write_bytes(start + word + struct.pack("<I", zlib.crc32(word)) + bytes(200))
    tracemalloc.start()
    try:
        with pytest.raises(LedgerError) as caught:
            read_all(ledger)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.number == 2


def test_a_record_as_large_as_one_can_be_is_not_made_room_for(ledger):
    """Its size is right for this header, and the file ends a few bytes on: it is torn, and nothing is allocated."""
    kind, header = bodies_of(ledger)[0]
    tree = json.loads(header)
    tree["method"]["local_steps"] = 16383
    size = 22 + 4 * 16383 * 16383 + 1
    word = struct.pack("<I", size)
    start = chained_again(ledger, [(kind, json.dumps(tree, sort_keys=True, separators=(",", ":")).encode())])
    ledger.write_bytes(start + word + struct.pack("<I", zlib.crc32(word)) + bytes(200))
    tracemalloc.start()
    try:
        reader = LedgerReader(ledger)
        assert (reader.rounds, reader.survey().torn_at) == (0, len(start))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [0, 16 << 20 | 1, 1 << 29])
def test_a_header_of_any_size_is_not_believed_either(ledger, size):
    word = struct.pack("<I", 1 << 30 | size)
    error = refused(ledger, fmt.PREAMBLE + word + struct.pack("<I", zlib.crc32(word)) + bytes(200))
    assert "between 1 and" in str(error)


@pytest.mark.parametrize("length", [1 << 31, (1 << 32) - 1])
def test_lengths_of_another_checksum(ledger, length):
    start = b"".join(frames_of(ledger)[:4])
    assert refused(ledger, start + struct.pack("<II", length, 0) + bytes(100)).number == 2


HOSTILE = {  # type: ignore[var-annotated]
    "not a mapping": lambda h: [],
    "no fields": lambda h: {},
    "one field too many": lambda h: {**h, "run": "rm -rf"},
    "a name instead of a number": lambda h: {**h, "seed": "5"},
    "a negative seed": lambda h: {**h, "seed": -1},
    "true for a number": lambda h: {**h, "cohort": True},
    "a cohort beyond all clients": lambda h: {**h, "cohort": 99},
    "a cohort beyond memory": lambda h: {**h, "cohort": 1 << 30, "clients": 1 << 31},
    "no tensors": lambda h: {**h, "tensors": []},
    "tensors twice": lambda h: {**h, "tensors": h["tensors"][:1] * 2},
    "a vast tensor": lambda h: {**h, "tensors": [{**h["tensors"][0], "shape": [1 << 20, 1 << 20]}]},
    "a vast number": lambda h: {**h, "tensors": [{**h["tensors"][0], "shape": [int("9" * 4000)] * 60}]},
    "a negative size": lambda h: {**h, "tensors": [{**h["tensors"][0], "shape": [-1]}]},
    "a size that is a mapping": lambda h: {**h, "tensors": [{**h["tensors"][0], "shape": {"a": 1}}]},
    "no SHA-256": lambda h: {**h, "trainable_sha256": "../../etc"},
    "tau of 0": lambda h: {**h, "method": {**h["method"], "local_steps": 0}},
    "tau of 2^40": lambda h: {**h, "method": {**h["method"], "local_steps": 1 << 40}},
    "another distribution": lambda h: {**h, "method": {**h["method"], "distribution": "os.system"}},
    "options that nest": lambda h: {
        **h,
        "method": {**h["method"], "preconditioner": {"Diagonal": {"nu": {"class_path": "x"}}}},
    },
    "weights that are a list": lambda h: {**h, "weights": {"name": ["/etc"], "revision": None}},
    "versions of numbers": lambda h: {**h, "versions": {"torch": 2}},
    "an escape": lambda h: {**h, "\x1b[2J": 1},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_header_is_checked_field_by_field(ledger, what):
    bodies = bodies_of(ledger)
    tree = HOSTILE[what](json.loads(bodies[0][1]))
    bodies[0] = (1, json.dumps(tree, sort_keys=True, separators=(",", ":")).encode())
    error = refused(ledger, chained_again(ledger, bodies))
    assert error.number is None
    assert str(error).isprintable()
    assert len(str(error)) < 800


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b'{"a":NaN}',
        b'{"a": 1}',
        b'{"a":1,"a":1}',
        b'{"a":1.0e0}',
        b"[" * 100_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b'"\xff"',
        b"9" * 10_000,
        b"\x80\x04\x95",
    ],
)
def test_a_header_that_is_no_json_of_one(ledger, text):
    refused(ledger, chained_again(ledger, [(1, text)]))


def test_a_header_has_one_spelling(ledger):
    text = bodies_of(ledger)[0][1]
    for other in (
        text.replace(b":", b": ", 1),
        text.replace(b'"seed":5', b'"seed":4,"seed":5'),
        text.replace(b'"lr":0.1', b'"lr":1e-1'),
        json.dumps(dict(reversed(json.loads(text).items())), separators=(",", ":")).encode(),
    ):
        assert other != text
        assert "canonical" in str(refused(ledger, chained_again(ledger, [(1, other)])))


def test_a_class_path_in_a_configuration_stays_text(ledger, tmp_path):
    bodies = bodies_of(ledger)
    tree = json.loads(bodies[0][1])
    hostile = {"class_path": "os.mkdir", "init_args": {"path": str(tmp_path / "made")}, "!!python/object": "x"}
    tree["configuration"] = {"model": hostile}
    bodies[0] = (1, json.dumps(tree, sort_keys=True, separators=(",", ":")).encode())
    ledger.write_bytes(chained_again(ledger, bodies))
    reader = LedgerReader(ledger)
    assert reader.header.configuration == {"model": hostile}
    assert len(list(reader)) == 10
    assert not (tmp_path / "made").exists()


def test_a_record_that_contradicts_itself(ledger):
    bodies = bodies_of(ledger)
    for change in (
        lambda b: b[:20] + struct.pack("<H", 3) + b[22:],  # P
        lambda b: b[:-1] + b"\x08",  # a slot that is not there
        lambda b: b[:4] + struct.pack("<d", float("nan")) + b[12:],
        lambda b: b[:12] + struct.pack("<d", 0.0) + b[20:],  # mu
        lambda b: b[:22] + struct.pack("<f", float("inf")) + b[26:],
    ):
        changed = [*bodies[:4], (0, change(bodies[4][1])), *bodies[5:]]
        assert refused(ledger, chained_again(ledger, changed)).number == 3


def test_a_record_has_as_many_directions_of_every_client_where_they_are_their_own(
    tmp_path, header_of, record_of, start
):
    header = replace(header_of(), method=Method(directions="client", num_directions=2).as_data())
    with LedgerWriter(tmp_path / "own.ledger", header, start) as writer:
        writer.append(record_of(0, directions=6))
        writer.append(record_of(1, directions=7))
    error = refused(writer.path, writer.path.read_bytes())
    assert error.number == 1
    assert "no record with tau=1 and a cohort of 3 and directions of each client's own has 51 bytes" in str(error)


def test_zeros_at_the_end_are_said_to_be_zeros(ledger):
    assert "all zeros" in str(refused(ledger, b"".join(frames_of(ledger)[:5]) + bytes(64)))


@SHARED
@given(st.binary(max_size=400), st.sampled_from(["bare", "after the magic", "after the header", "in a header's body"]))
def test_anything_at_all_is_read_or_refused(tmp_path_factory, ledger, noise, where):
    path = tmp_path_factory.mktemp("noise") / "rounds.ledger"
    whole = b"".join(frames_of(ledger)[:2])
    made = {
        "bare": noise,
        "after the magic": fmt.PREAMBLE + noise,
        "after the header": whole + noise,
        "in a header's body": chained_again(ledger, [(1, noise)]) if noise else b"",
    }
    path.write_bytes(made[where])
    with contextlib.suppress(LedgerError):
        read_all(path)


@SHARED
@given(st.lists(st.tuples(st.sampled_from(EDITS), st.integers(0, 10**6)), max_size=4))
def test_a_ledger_that_was_tampered_with_is_never_taken_for_another(tmp_path_factory, ledger, edits):
    """What is read from it is a beginning of what was written, or it is refused."""
    original = [(r.round, r.scalars.tobytes()) for r in LedgerReader(ledger)]
    data = bytearray(ledger.read_bytes())
    for what, at in edits:
        at %= max(1, len(data))
        if what == "drop":
            del data[at : at + 1 + at % 90]
        elif what == "repeat":
            data[at:at] = data[max(0, at - 61) : at]
        elif what == "flip" and data:
            data[at] ^= 1 << at % 8
        elif what == "insert":
            data[at:at] = bytes([at % 256]) * (1 + at % 5)
        else:
            del data[at:]
    path = tmp_path_factory.mktemp("tampered") / "rounds.ledger"
    path.write_bytes(bytes(data))
    try:
        found = [(r.round, r.scalars.tobytes()) for r in LedgerReader(path)]
    except LedgerError:
        return
    assert found == original[: len(found)]


def test_a_long_ledger_is_read_in_little_memory(ledger, tmp_path):
    header, records = bodies_of(ledger)[0], []
    scalars = bytes(4 * 5000)
    for r in range(400):
        records.append((0, struct.pack("<IddH", r, 1e-3, 1e-3, 5000) + scalars + b"\0"))
    ledger.write_bytes(chained_again(ledger, [header, *records]))
    assert ledger.stat().st_size > 8_000_000
    del records
    tracemalloc.start()
    try:
        assert LedgerReader(ledger).rounds == 400
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_record_of_millions_of_dropped_slots_takes_a_bit_of_each(ledger, header_of):
    """21 MB took 3 GB and 24 s."""
    header = json.loads(bodies_of(ledger)[0][1])
    header["clients"] = header["cohort"] = cohort = (1 << 24) - 1
    bits = b"\xff" * (cohort // 8) + b"\x7f"
    encoded = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    records = [(0, struct.pack("<IddH", r, 1e-3, 1e-3, 1) + bytes(4) + bits) for r in range(10)]
    ledger.write_bytes(chained_again(ledger, [(1, encoded), *records]))
    tracemalloc.start()
    began = time.process_time()
    try:
        said = show.text(LedgerReader(ledger))
        assert tracemalloc.get_traced_memory()[1] < ledger.stat().st_size * 1.5
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 5.0
    assert f"{10 * cohort} slots in all; 10 rounds in which nobody was left" in said
    assert f"18, 19, ... {cohort} in all" in said
    assert len(said) < 5000
    record = next(iter(LedgerReader(ledger)))
    assert record.empty
    assert fmt.pack_record(record) == records[0][1]


def test_slots_are_told_as_a_tuple_of_them_would(record_of):
    chance = random.Random(3)
    for cohort in (1, 7, 8, 9, 70_000):
        dropped = tuple(sorted(chance.sample(range(cohort), chance.randrange(1, min(cohort, 60) + 1))))
        record = record_of(0, cohort=cohort, dropped=dropped)
        there = fmt.unpack_record(fmt.pack_record(record), 1, cohort)
        assert there.dropped == dropped
        assert (len(there.dropped), tuple(there.dropped)) == (len(dropped), dropped)
        assert all(slot in there.dropped for slot in dropped)
        assert cohort not in there.dropped
        assert there.as_data()["dropped"] == list(dropped)
        assert RoundRecord.of_data(there.as_data()).dropped == dropped


@pytest.mark.parametrize(
    "change",
    [
        {"round": 1.0}, {"round": "1"}, {"lr": "0"}, {"lr": 10**400}, {"mu": None}, {"scalars": [["a"]]},
        {"scalars": [[10**400]]}, {"cohort": True}, {"dropped": 3}, {"dropped": [True]}, {"dropped": [[0]]},
        {"more": 1},
    ],
)  # fmt: skip
def test_a_checkpoints_record_is_checked_as_well(record_of, change):
    with pytest.raises(ValueError, match="is no round's record") as caught:
        RoundRecord.of_data({**record_of(0).as_data(), **change})
    assert "\n" not in str(caught.value)


def again(tree):
    return (1, json.dumps(tree, sort_keys=True, separators=(",", ":")).encode())


MANY = {
    "headers": (lambda h: h, 257, "257 headers, and a ledger may have 256"),
    "bytes": (lambda h: {**h, "configuration": {"a": "b" * (12 << 20)}}, 3, r"bytes of headers, .* may have 33554432"),
    "values": (lambda h: {**h, "configuration": {"a": [1] * 400_000}}, 3, r"values in headers, .* may have 1048576"),
}


@pytest.mark.parametrize("what", MANY)
def test_headers_are_bounded_together(ledger, what):
    change, times, said = MANY[what]
    frame = again(change(json.loads(bodies_of(ledger)[0][1])))
    ledger.write_bytes(chained_again(ledger, [frame] * (times - 1)))
    assert len(LedgerReader(ledger).survey().headers) == times - 1
    assert re.search(said, str(refused(ledger, chained_again(ledger, [frame] * times))))


def test_a_header_is_decoded_once_however_often_the_file_is_gone_through(ledger, monkeypatch):
    frames, decoded, decode = bodies_of(ledger), [], Header.decode
    frames.insert(5, frames[0])
    ledger.write_bytes(chained_again(ledger, frames))
    monkeypatch.setattr(Header, "decode", lambda encoded: decoded.append(1) or decode(encoded))
    reader = LedgerReader(ledger)
    show.text(reader)
    reader.around(7)
    assert len(decoded) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda h: h["method"]["preconditioner"].update(Diagonal={"floor": 10**400}), "401 digits, must be below 2"),
        (lambda h: h["method"].update(lr=-(10**400)), "must be below 2"),
        (lambda h: h["configuration"].update(seed=1 << 64), "must be below 2"),
        (lambda h: h["weights"].update(name="a" * 5000), "weights.name has 5000 characters"),
        (lambda h: h["tensors"][0].update(name="a" * 5000), "name has 5000 characters"),
        (lambda h: h["versions"].update({"a" * 5000: "1"}), "versions has 5000 characters"),
        (lambda h: h["weights"].update(revision=nest(700)), "weights.revision="),
        (lambda h: h["tensors"][0].update(stored=nest(700)), "must be true or false"),
        (lambda h: h["tensors"][0].update(shape=[nest(700)]), "must be an integer"),
        (lambda h: h["method"].update(distribution=nest(60)), "must be a number, text or null"),
        (lambda h: h.update(seed=nest(700)), "seed="),
        (lambda h: h["method"].update(lr={"a": "b"}), "method.lr=.* must be a number, text or null"),
        (lambda h: h["method"].update(mu=[1]), "method.mu=.* must be a number, text or null"),
    ],
)
def test_what_is_in_a_header_is_refused_in_a_line(ledger, change, said):
    bodies = bodies_of(ledger)
    tree = json.loads(bodies[0][1])
    change(tree)
    error = refused(ledger, chained_again(ledger, [again(tree), *bodies[1:]]))
    assert re.search(said, str(error)), error
    assert len(str(error)) < 600


def test_nesting_is_refused_wherever_it_becomes_too_deep(ledger):
    """In parsing, in spelling it again, or in quoting it."""
    tree = {**json.loads(bodies_of(ledger)[0][1]), "seed": "X"}
    for levels in range(700, 1000):
        encoded = again(tree)[1].replace(b'"X"', b"[" * levels + b"]" * levels)
        refused(ledger, chained_again(ledger, [(1, encoded)]))


def nest(levels):
    tree = 1
    for _ in range(levels):
        tree = [tree]
    return tree


def test_a_float_option_may_be_no_endless_integer():
    """Also where the data come by another way than a ledger's header."""
    with pytest.raises(ValueError, match="of 401 digits must be a float"):
        Method.applying({"preconditioner": {"Diagonal": {"floor": 10**400}}})


@pytest.mark.parametrize("kind", ["fifo", "folder", "zero"])
def test_what_is_no_file_is_not_waited_for(tmp_path, kind):
    path = tmp_path / "rounds.ledger"
    {"fifo": os.mkfifo, "folder": Path.mkdir, "zero": lambda p: p.symlink_to("/dev/zero")}[kind](path)
    with pytest.raises(LedgerError, match="is no file"):
        LedgerReader(path)
