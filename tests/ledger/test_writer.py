"""A ledger that is written, broken off, gone on with and closed."""

import errno
import os
from dataclasses import replace

import numpy as np
import pytest

from hiso_pl.ledger import LedgerError, LedgerReader, LedgerWriter, stored_path
from hiso_pl.zeroth_order import Diagonal, Method


def rounds_of(path):
    return [(r.round, r.lr, r.scalars.tobytes(), r.dropped) for r in LedgerReader(path)]


def append_all(writer, record_of, first, last):
    """As the ledger of the fixture has them, so that they are the same records."""
    for r in range(first, last):
        writer.append(record_of(r, directions=2 + r % 3, dropped=(1,) if r == 4 else ()))


def test_every_record_is_in_the_file_at_once(tmp_path, header_of, start, record_of):
    path = tmp_path / "a" / "rounds.ledger"
    with LedgerWriter(path, header_of(), start) as writer:
        for r in range(3):
            writer.append(record_of(r))
            assert LedgerReader(path).rounds == r + 1
    assert LedgerReader(path).survey().closing is None
    assert {p.name for p in path.parent.iterdir()} == {path.name, stored_path(path).name}
    with pytest.raises(LedgerError, match="exists"):
        LedgerWriter(path, header_of(), start)


def test_stored_tensors_must_be_what_the_header_says(tmp_path, header_of, start):
    name = next(iter(start))
    for wrong in ({}, {**start, name: start[name] + 1}, {**start, name: start[name].T}):
        with pytest.raises(LedgerError, match=name):
            LedgerWriter(tmp_path / "rounds.ledger", header_of(), wrong)
    assert not (tmp_path / "rounds.ledger").exists()


def test_records_must_follow_and_fit(ledger, header_of, record_of):
    with LedgerWriter.resume(ledger, header_of(), 10) as writer:
        with pytest.raises(LedgerError, match="record of round 11 was given, round 10 comes next"):
            writer.append(record_of(11))
        with pytest.raises(LedgerError, match="tau=2"):
            writer.append(record_of(10, tau=2))
        with pytest.raises(LedgerError, match="cohort of 2"):
            writer.append(record_of(10, cohort=2))
    assert LedgerReader(ledger).survey().closing  # nothing was written, so it is as it was


@pytest.mark.parametrize("at", [0, 4, 9, 10])
def test_going_on_gives_the_bytes_of_a_run_that_went_through(ledger, header_of, record_of, at):
    whole = ledger.read_bytes()
    with LedgerWriter.resume(ledger, header_of(), at) as writer:
        append_all(writer, record_of, at, 10)
        writer.close("ab" * 32)
    assert ledger.read_bytes() == whole
    with LedgerWriter.resume(ledger, header_of(), at) as writer:
        append_all(writer, record_of, at, 12)
        assert LedgerReader(ledger).survey().closing is None  # it went on
        writer.close("cd" * 32)
    assert LedgerReader(ledger).survey().closing == (12, "cd" * 32)
    assert ledger.read_bytes().startswith(whole[:-52])


def test_nothing_of_a_closing_frame_is_left_behind_a_shorter_record(ledger, header_of, record_of):
    with LedgerWriter.resume(ledger, header_of(), 10) as writer:
        writer.append(record_of(10, directions=1))
    reader = LedgerReader(ledger)
    assert (reader.rounds, reader.survey().torn_at, reader.survey().closing) == (11, None, None)


@pytest.mark.parametrize("cut", [1, 7, 8, 20, 45, 53, 60])
def test_a_torn_tail_is_cut_and_written_again(ledger, header_of, record_of, cut, caplog):
    whole = ledger.read_bytes()
    ledger.write_bytes(whole[: -52 - cut])
    torn = LedgerReader(ledger).survey().torn_at
    rounds = LedgerReader(ledger).rounds
    with LedgerWriter.resume(ledger, header_of(), 3) as writer:
        assert torn is None or (ledger.stat().st_size == torn and "torn" in caplog.text)
        assert LedgerReader(ledger).rounds == rounds
        append_all(writer, record_of, 3, 10)
        writer.close("ab" * 32)
    assert ledger.read_bytes() == whole


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("lr", {"lr": 2e-3}),
        ("mu", {"mu": 2e-3}),
        ("scalars", {"scalars": np.array([[1.0, 2.0, 3.0]], np.float32)}),
        ("dropped", {"dropped": (0, 2)}),
    ],
)
def test_a_record_computed_again_must_be_the_one_that_is_there(ledger, header_of, record_of, name, other):
    whole = ledger.read_bytes()
    with LedgerWriter.resume(ledger, header_of(), 5) as writer:
        append_all(writer, record_of, 5, 7)
        with pytest.raises(LedgerError, match=rf"record 7 \(round 7, byte \d+\): {name} is .* this run computed"):
            writer.append(replace(record_of(7, directions=3), **other))
    assert ledger.read_bytes() == whole


def test_one_bit_of_a_scalar_is_a_difference(ledger, header_of, record_of):
    there = record_of(5, directions=4)
    bits = there.scalars.view(np.uint32).copy()
    bits[0, 3] ^= 1
    with (
        LedgerWriter.resume(ledger, header_of(), 5) as writer,
        pytest.raises(LedgerError, match="round 5"),
    ):
        writer.append(replace(there, scalars=bits.view(np.float32)))


def test_a_run_that_ends_before_the_ledger_does_leaves_it_as_it_is(ledger, header_of, record_of):
    whole = ledger.read_bytes()
    with LedgerWriter.resume(ledger, header_of(), 2) as writer:
        append_all(writer, record_of, 2, 6)
        writer.close("99" * 32)
    assert ledger.read_bytes() == whole


def test_another_digest_at_the_same_end_is_an_error(ledger, header_of, record_of):
    writer = LedgerWriter.resume(ledger, header_of(), 9)
    append_all(writer, record_of, 9, 10)
    with pytest.raises(LedgerError, match=r"closed after 10 rounds with digest abab.* has cdcd"):
        writer.close("cd" * 32)


def test_a_ledger_that_ends_before_the_checkpoint_is_refused(ledger, header_of):
    with pytest.raises(LedgerError, match="ends after round 9, so it cannot go on with round 11"):
        LedgerWriter.resume(ledger, header_of(), 11)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"seed": 6}, "seed is 5 there and 6 here"),
        ({"configuration": {"model": {"lr": 0.2}}}, "configuration.model.lr is 0.1 there and 0.2 here"),
        ({"configuration": {"model": {"lr": 0.1, "x": 1}}}, "configuration.model.x is absent there and 1 here"),
        ({"frozen_sha256": "1" * 64}, "frozen_sha256"),
    ],
)
def test_the_header_must_be_the_same(ledger, header_of, other, named):
    whole = ledger.read_bytes()
    with pytest.raises(LedgerError, match=named):
        LedgerWriter.resume(ledger, header_of(**other), 5)
    if "configuration" not in other:
        with pytest.raises(LedgerError, match=named):  # not for the asking either
            LedgerWriter.resume(ledger, header_of(**other), 5, changed=True)
    assert ledger.read_bytes() == whole


def test_versions_and_threads_may_differ(ledger, header_of):
    other = header_of(versions={"torch": "2"}, configuration={"model": {"lr": 0.1}, "threads": 1})
    LedgerWriter.resume(ledger, other, 5).close()


def test_options_changed_on_purpose_are_recorded_where_they_begin(ledger, header_of, record_of, caplog):
    method = Method(local_steps=3, difference="central", preconditioner=Diagonal(nu=0.5)).as_data()
    other = replace(header_of(configuration={"model": {"lr": 0.2}}), method=method)
    before = rounds_of(ledger)
    with LedgerWriter.resume(ledger, other, 6, changed=True) as writer:
        assert "rounds 6 to 9 are cut off" in caplog.text
        for r in range(6, 8):
            writer.append(record_of(r, tau=3))
    reader = LedgerReader(ledger)
    assert rounds_of(ledger)[:6] == before[:6]
    assert [at for at, _ in reader.survey().headers] == [0, 6]
    assert reader.survey().headers[1][1].method == method
    assert [r.scalars.shape[0] for r in reader] == [1] * 6 + [3] * 2

    # going on under the changed options, from the very round of the change and after it
    for at in (6, 7, 8):
        with LedgerWriter.resume(ledger, other, at) as writer:
            for r in range(at, 8):
                writer.append(record_of(r, tau=3))
    # an older checkpoint under the old options does not come through the change
    with LedgerWriter.resume(ledger, header_of(), 4) as writer:
        append_all(writer, record_of, 4, 6)
        with pytest.raises(LedgerError, match="from here on the ledger was made with other options"):
            writer.append(record_of(6))
    # and the change can be taken back
    with LedgerWriter.resume(ledger, header_of(), 6, changed=True) as writer:
        append_all(writer, record_of, 6, 10)
    assert rounds_of(ledger) == before
    assert len(LedgerReader(ledger).survey().headers) == 1


def test_a_full_disk_leaves_whole_records(ledger, header_of, record_of, monkeypatch):
    real, left = os.pwrite, [25]

    def pwrite(fd, data, offset):
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = min(left[0], len(data))
        left[0] -= taken
        return real(fd, data[:taken], offset)

    writer = LedgerWriter.resume(ledger, header_of(), 10)
    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OSError, match="No space left"):
        writer.append(record_of(10))
    assert (LedgerReader(ledger).rounds, LedgerReader(ledger).survey().torn_at) == (10, None)
    left[0] = 1000  # and once there is room again it goes on
    writer.append(record_of(10))
    assert LedgerReader(ledger).rounds == 11


def written_by_another(ledger, how):
    """What another process may have done to a ledger in the meantime."""
    data = ledger.read_bytes()
    if how == "longer":
        ledger.write_bytes(data + bytes(50))
    elif how == "shorter":
        ledger.write_bytes(data[:-3])
    elif how == "another record":
        with ledger.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(bytes([data[-1] ^ 1]))
    elif how == "another file":
        other = ledger.with_name("other")
        other.write_bytes(data)
        other.replace(ledger)
    else:
        ledger.unlink()
    return ledger.read_bytes() if ledger.exists() else None


DOINGS = {
    "append": lambda writer, record: writer.append(record),
    "close": lambda writer, record: writer.close("ab" * 32),
    "cut back": lambda writer, record: writer.cut_back(4),
}


@pytest.mark.parametrize("how", ["longer", "shorter", "another record", "another file", "gone"])
@pytest.mark.parametrize("doing", DOINGS)
def test_nothing_is_written_into_a_ledger_that_another_process_has_changed(ledger, header_of, record_of, how, doing):
    ledger.write_bytes(ledger.read_bytes()[:-52])  # without its closing frame
    writer = LedgerWriter.resume(ledger, header_of(), 10)
    left = written_by_another(ledger, how)
    with pytest.raises((LedgerError, FileNotFoundError), match=r"was changed by another process|No such file|ledger: "):
        DOINGS[doing](writer, record_of(10))
    assert (ledger.read_bytes() if ledger.exists() else None) == left


@pytest.mark.parametrize("changed", [False, True])
def test_nor_when_it_changes_while_it_is_read(ledger, header_of, record_of, monkeypatch, changed):
    """Between the survey and the first write, and over a closing frame or a torn tail."""
    header = header_of(configuration={"model": {"lr": 0.2}}) if changed else header_of()
    around = LedgerReader.around
    left = []

    def meddling(self, round):
        found = around(self, round)
        with ledger.open("ab") as file:
            file.write(bytes(9))
        left.append(ledger.read_bytes())
        return found

    monkeypatch.setattr(LedgerReader, "around", meddling)
    with pytest.raises(LedgerError, match="was changed by another process"):
        LedgerWriter.resume(ledger, header, 10, changed=changed).append(record_of(10))
    assert ledger.read_bytes() == left[0]


def test_two_writers_leave_the_first_ones_records(ledger, header_of, record_of):
    """As two runs whose file system knows no locks: whoever comes second stops, and the ledger is whole."""
    one, two = (LedgerWriter.resume(ledger, header_of(), 10) for _ in range(2))
    one.append(record_of(10))
    with pytest.raises(LedgerError, match=r"it has \d+ bytes and not \d+"):
        two.append(record_of(10, directions=3))
    one.append(record_of(11))
    assert LedgerReader(ledger).rounds == 12
