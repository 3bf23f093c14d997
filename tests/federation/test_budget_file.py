"""The file of releases: on disk before anything is sent, and never shorter than what was."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from hiso_pl.federation.privacy.budget_file import BudgetFile, Terms, terms_in

TERMS = Terms("client", 1.5, 1.0, 1e-5, "pld", 20, "", 7)
ROUNDS = [(0, [3, 0, 1]), (1, []), (2, list(range(20))), (3, [5, 7, 8, 19])]


@pytest.fixture
def path(tmp_path):
    file = BudgetFile(tmp_path / "privacy.jsonl", TERMS)
    for round, clients in ROUNDS:
        file.append(round, clients)
    file.close()
    return file.path


def counted(rounds):
    return np.bincount([client for _, clients in rounds for client in clients], minlength=20)


def test_a_file_is_read_as_it_was_written(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.get("clients") for line in lines[1:]] == [[[0, 1], 3], [], [[0, 19]], [5, [7, 8], 19]]
    found = BudgetFile(path, TERMS, path)
    assert (found.lines, found.rounds, found.found.tolist()) == (4, 4, counted(ROUNDS).tolist())
    assert found.terms.run == terms_in(path).run != BudgetFile(path, TERMS).terms.run
    assert replace(found.terms, run="") == TERMS


def test_rounds_made_again_are_counted_again(path):
    again = BudgetFile(path, TERMS, path)
    for round, clients in ROUNDS[2:]:
        again.append(round, clients)
    again.close()
    found = BudgetFile(path, TERMS, path)
    assert (found.lines, found.rounds) == (6, 4)
    assert found.found.tolist() == counted(ROUNDS + ROUNDS[2:]).tolist()


def test_nothing_is_there_before_the_first_release_and_the_disk_has_each_one(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append(os.fstat(fd).st_size))
    file = BudgetFile(tmp_path / "privacy.jsonl", TERMS)
    assert not file.path.exists()
    for round, clients in ROUNDS:
        file.append(round, clients)
        assert seen[-1] == file.path.stat().st_size
    assert len(seen) == len(ROUNDS) + 2  # the first line, the folder


def test_the_releases_of_another_folder_are_carried_along(path, tmp_path):
    copy = tmp_path / "other" / path.name
    file = BudgetFile(copy, TERMS, path)
    assert not copy.exists()
    file.append(2, [4])
    file.close()
    assert copy.read_bytes().startswith(path.read_bytes())
    assert BudgetFile(copy, TERMS, copy).found.tolist() == counted([*ROUNDS, (2, [4])]).tolist()


@pytest.mark.parametrize("torn", [b'{"round":4,"clie', b"\x00" * 4096, b"{"])
def test_a_torn_line_is_cut_off(path, torn, caplog):
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    file = BudgetFile(path, TERMS, path)
    assert path.read_bytes() == whole + torn  # until the run goes on
    assert "torn" in caplog.text
    file.begin()
    assert path.read_bytes() == whole
    file.append(4, [1])
    file.close()
    assert BudgetFile(path, TERMS, path).lines == 5


def test_every_other_damage_is_found(path):
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    damaged = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(len(whole))]
    damaged += [b"".join([*lines[:k], *lines[k + 1 :]]) for k in range(len(lines) - 1)]  # of the last see below
    damaged += [
        b"".join([*lines[:2], lines[3], lines[2], *lines[4:]]),
        whole + lines[1],
        whole + b"\n",
        b"",
        lines[0][:9],
    ]
    for data in damaged:
        path.write_bytes(data)
        if data.endswith(b"\n") or not data.startswith(lines[0]):
            with pytest.raises(ValueError, match=r"privacy.jsonl is (damaged|of another format)"):
                BudgetFile(path, TERMS, path)
        else:  # its last byte
            assert BudgetFile(path, TERMS, path).lines == 3


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"round": 5, "clients": [1]}, "line 6 is damaged|line 6 tells no releases"),
        ({"round": -1, "clients": [1]}, "tells no releases"),
        ({"round": True, "clients": [1]}, "tells no releases"),
        ({"round": 4, "clients": [20]}, "tells no releases"),
        ({"round": 4, "clients": [3, 2]}, "tells no releases"),
        ({"round": 4, "clients": [[0, 1 << 40]]}, "tells no releases"),
        ({"round": 4, "clients": [[2, 1]]}, "tells no releases"),
        ({"round": 4, "clients": "all"}, "tells no releases"),
        ({"round": 4, "clients": [1.0]}, "tells no releases"),
        ({"round": 4, "clients": [1], "more": 1}, "tells no releases"),
        ({"round": 4}, "tells no releases"),
    ],
)
def test_a_line_with_a_right_sum_is_still_to_tell_a_round(path, told, said):
    from hiso_pl.federation.privacy import budget_file

    before = budget_file._sum_of(path.read_bytes().splitlines(keepends=True)[-1])
    with path.open("ab") as file:
        file.write(budget_file._line(told, before))
    with pytest.raises(ValueError, match=said):
        BudgetFile(path, TERMS, path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("level", "example"), ("noise_multiplier", 2.0), ("clients", 21), ("sampling", "ab"), ("seed", 8)],
)
def test_releases_by_other_terms_are_refused(path, name, value):
    with pytest.raises(ValueError, match=f"{name}={getattr(TERMS, name)}, this run has {value}"):
        BudgetFile(path, replace(TERMS, **{name: value}), path)
    BudgetFile(path, replace(TERMS, clip=3.0, delta=1e-3, accountant="rdp"), path)  # they change no release
    BudgetFile(path, replace(TERMS, seed=8), path, ("seed",))


def test_what_cannot_be_written_leaves_the_file_as_it_was(path, monkeypatch):
    whole, file = path.read_bytes(), BudgetFile(path, TERMS, path)
    file.append(4, [2])
    longer = path.read_bytes()

    def full(fd, data, offset):
        os.write(os.open(path, os.O_WRONLY | os.O_APPEND), data[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        file.append(5, [3])
    assert path.read_bytes() == longer != whole
    assert file.lines == 5
    with pytest.raises(FileExistsError, match="another run"):
        BudgetFile(path, TERMS).append(0, [1])


def test_a_line_as_long_as_no_cohort_is_not_read(path):
    with path.open("ab") as file:
        file.write(b'{"round":4,"clients":[' + b"1," * 10_000 + b"2]}\n")
    with pytest.raises(ValueError, match="longer than that of any cohort"):
        BudgetFile(path, TERMS, path)
