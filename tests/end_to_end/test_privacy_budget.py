"""A private run's account: no release is forgotten, whatever becomes of the run, and none is made that is too many."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hiso_pl.federation.cohort import sample_cohort
from hiso_pl.federation.exchange import AllReduceExchange
from hiso_pl.federation.privacy import account, epsilon
from hiso_pl.ledger import LedgerReader
from hiso_pl.report.run import read_run

from .conftest import BASE, of_class

ROUNDS, HALF = 12, 6
COHORTS = [sample_cohort(7, round, 8, 4) for round in range(40)]
FIT = ["fit", "--config", BASE, "--checkpoint.every_n_train_steps", "3", "--checkpoint.save_top_k", "-1"]
Here = Callable[[list[str], Path], tuple[int, str, Path]]


def private(level: str = "Client", **options: object) -> list[str]:
    options = options or {"noise_multiplier": 5.0}
    return ["--model.method.privacy", of_class(f"hiso_pl.federation.privacy.{level}Privacy", **options)]


def lines(root: Path) -> list[dict]:
    return [json.loads(line) for line in (root / "privacy.jsonl").read_text().splitlines()[1:]]


def rounds(root: Path) -> list[int]:
    return [line["round"] for line in lines(root)]


def told(root: Path) -> dict:
    return json.loads((root / "summary.json").read_text())["privacy"]


def most(rounds: Iterable[int]) -> int:
    """The largest number of releases that a client makes in rounds."""
    return max(Counter(client for round in rounds for client in COHORTS[round]).values())


def step(root: Path, round: int) -> list[str]:
    return ["--ckpt_path", str(root / "checkpoints" / f"step={round}.ckpt")]


_DONE: list[Path] = []


@pytest.fixture
def copy(here: Here, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    """The folder of a run of twelve rounds."""
    if not _DONE:
        status, out, root = here([*FIT, *private()], tmp_path_factory.mktemp("private") / "run")
        assert status == 0, out
        _DONE.append(root)
    return Path(shutil.copytree(_DONE[0], tmp_path / "copy"))


def test_what_is_spent_is_told_everywhere(here: Here, tmp_path: Path) -> None:
    status, out, root = here([*FIT, *private(), "--trainer.enable_progress_bar", "true"], tmp_path / "run")
    assert status == 0, out
    assert rounds(root) == list(range(ROUNDS))
    spent = epsilon(5.0, most(range(ROUNDS)), 1e-5)
    found = told(root)
    assert 0.0 < found.pop("epsilon_median") <= spent
    assert found == {
        **{"level": "client", "noise_multiplier": 5.0, "clip": 1.0, "delta": 1e-5, "epsilon": spent},
        **{"releases_max": most(range(ROUNDS)), "accountant": "pld", "adjacency": "replace_one", "ended": None},
    }
    assert f"  epsilon {spent:.4f}" in out
    board = EventAccumulator(str(root), size_guidance={"scalars": 0})
    board.Reload()
    curve = {point.step: point.value for point in board.Scalars("privacy/epsilon")}
    assert curve == pytest.approx({r: epsilon(5.0, most(range(r)), 1e-5) for r in range(1, ROUNDS + 1)})


def test_by_example_it_is_told_at_validations(here: Here, tmp_path: Path) -> None:
    options = {"noise_multiplier": 2.0, "accountant": "rdp"}
    status, out, root = here([*FIT, *private("Example", **options)], tmp_path / "run")
    assert status == 0, out
    board = EventAccumulator(str(root), size_guidance={"scalars": 0})
    board.Reload()
    curve = {point.step: point.value for point in board.Scalars("privacy/epsilon")}
    assert list(curve) == [5, 10, 12]
    assert curve[12] == pytest.approx(told(root)["epsilon"])
    assert told(root)["accountant"] == "rdp"


def test_rounds_made_again_from_an_earlier_checkpoint_are_counted_again(here: Here, copy: Path) -> None:
    status, out, _ = here([*FIT, *private(), *step(copy, 3)], copy)
    assert status == 0, out
    assert rounds(copy) == [*range(ROUNDS), *range(3, ROUNDS)]
    assert told(copy)["releases_max"] == most(rounds(copy)) > most(range(ROUNDS))
    assert LedgerReader(copy / "rounds.ledger").rounds == ROUNDS


def test_a_checkpoint_of_another_folder_brings_its_releases_along(here: Here, copy: Path, tmp_path: Path) -> None:
    status, out, other = here([*FIT, *private(), *step(copy, 9)], tmp_path / "other")
    assert status == 0, out
    assert rounds(other) == [*range(ROUNDS), *range(9, ROUNDS)]  # also those after the checkpoint
    assert rounds(copy) == list(range(ROUNDS))


def test_a_kill_between_exchange_and_record_forgets_no_release(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(self, rows, slots):
        found = exchange(self, rows, slots)
        if self.rounds == HALF:
            raise KeyboardInterrupt  # as good as a kill: nothing of the round is kept
        return found

    exchange = AllReduceExchange.__call__
    with monkeypatch.context() as patched:
        patched.setattr(AllReduceExchange, "__call__", dying)
        status, out, root = here([*FIT, *private()], tmp_path / "run")
    assert status == 130, out
    assert (rounds(root), LedgerReader(root / "rounds.ledger").rounds) == (list(range(HALF)), HALF - 1)
    with (root / "privacy.jsonl").open("ab") as file:  # and once more in the middle of a line
        file.write(b'{"round":5,"cl')
    status, out, root = here([*FIT, *private(), "--ckpt_path", "last"], root)
    assert status == 0, out
    assert "going on from the ledger" in out  # which has two rounds more than the checkpoint
    assert rounds(root) == [*range(HALF), *range(HALF - 1, ROUNDS)]
    assert told(root)["releases_max"] == most(rounds(root))


def test_nothing_is_sent_before_the_disk_has_it(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk ends the run, and no rank has sent anything of the round."""

    def full(fd, data, offset):
        if b'"round":4' in data:
            raise OSError(28, "No space left on device")
        return written(fd, data, offset)

    written = os.pwrite
    monkeypatch.setattr(os, "pwrite", full)
    sent, added = [], AllReduceExchange.__call__

    def noted(*given):
        sent.append(added(*given))
        return sent[-1]

    monkeypatch.setattr(AllReduceExchange, "__call__", noted)
    status, out, root = here([*FIT, *private()], tmp_path / "run")
    assert status == 1
    said = f"hiso-pl: error: {root / 'privacy.jsonl'} cannot be written (No space left on device), so nothing more is"
    assert said in out
    assert (len(sent), rounds(root)) == (4, [0, 1, 2, 3])


def test_a_run_ends_before_a_client_would_exceed_the_target(here: Here, tmp_path: Path) -> None:
    aim = private(target_epsilon=2.0)
    status, out, root = here([*FIT, *aim], tmp_path / "run")
    assert status == 0, out
    assert 1.98 < told(root)["epsilon"] <= 2.0
    assert told(root)["ended"] is None
    noise = told(root)["noise_multiplier"]
    assert f"takes noise_multiplier={noise:.6g}: 12 rounds" in out

    # more rounds are asked for than the noise was found for, and are made as long as there is something left
    last = ["--ckpt_path", "last", "--trainer.max_steps", "40"]
    status, out, _ = here([*FIT, *aim, *last], root)
    assert status == 0, out
    ended = next(r for r in range(40) if epsilon(noise, most(range(r + 1)), 1e-5) > 2.0)
    assert rounds(root) == list(range(ended))
    assert told(root)["noise_multiplier"] == noise
    assert f"Ended after round {ended} of 40: {told(root)['ended']}." in out
    assert (
        told(root)["ended"] == f"round {ended + 1} would take a client beyond privacy.target_epsilon=2 at delta=1e-05"
    )
    run = read_run(root)
    assert (run.complete, run.rounds) == (True, ended)
    assert run.curve["round"].iloc[-1] == ended  # validated, as at any end

    # and once more: nothing is left
    status, out, _ = here([*FIT, *aim, *last], root)
    assert status == 0, out
    assert rounds(root) == list(range(ended))
    assert f"Ended after round {ended} of 40" in out


def test_clients_that_do_not_answer_release_nothing_and_take_no_noise(here: Here, tmp_path: Path) -> None:
    status, out, root = here([*FIT, *private(target_epsilon=2.0), "--data.dropout", "0.5"], tmp_path / "run")
    assert status == 0, out
    answering = [[client for span in line["clients"] for client in _clients(span)] for line in lines(root)]
    assert all(set(clients) <= set(cohort) for clients, cohort in zip(answering, COHORTS, strict=False))
    counts = Counter(client for clients in answering for client in clients)
    assert told(root)["releases_max"] == max(counts.values()) < most(range(ROUNDS))
    assert 1.98 < told(root)["epsilon"] <= 2.0
    status, out, _ = here([*FIT, *private(target_epsilon=2.0), "--data.dropout", "0.5", "--ckpt_path", "last"], root)
    assert status == 0, out  # nothing is left to do, and nothing is released
    assert len(lines(root)) == ROUNDS


def _clients(span: int | list[int]) -> Iterable[int]:
    return (span,) if isinstance(span, int) else range(span[0], span[1] + 1)


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "does not exist, so nobody knows what the 12 rounds before have released"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b" \n"), "line 13 is not as it was written"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b'"round":3', b'"round":2')), "line 5 is not as it"),
        (
            lambda path: path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1])),
            "tells of 11 rounds, the last of them 11, but 12 have been made",
        ),
        (lambda path: path.write_bytes(b""), "line 1 is not as it was written"),
        (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
        (a_fifo, "it is a FIFO, must be a regular file"),
    ],
)
def test_releases_that_are_not_known_are_refused(here: Here, copy: Path, damage: Callable, said: str) -> None:
    damage(copy / "privacy.jsonl")
    before = {path: path.read_bytes() for path in copy.glob("*") if path.is_file()}
    status, out, _ = here([*FIT, *private(), "--ckpt_path", "last", "--trainer.max_steps", "15"], copy)
    assert status == 1
    assert said in next(line for line in out.splitlines() if line.startswith("hiso-pl: error"))
    assert {path: path.read_bytes() for path in before} == before


def test_the_releases_of_another_run_are_refused(here: Here, copy: Path, tmp_path: Path) -> None:
    status, out, other = here([*FIT, *private()], tmp_path / "other")
    assert status == 0, out
    shutil.copy(other / "privacy.jsonl", copy)
    status, out, _ = here([*FIT, *private(), "--ckpt_path", "last"], copy)
    assert status == 1
    assert "has the releases of another run than" in out

    for change, said in (
        ([*private(noise_multiplier=4.0)], "releases with noise_multiplier=5.0, this run has 4.0"),
        ([*private("Example", noise_multiplier=5.0)], "releases with level=client, this run has example"),
    ):
        asked = [*FIT, *change, "--ckpt_path", "last", "--trainer.max_steps", "15"]
        status, out, _ = here([*asked, "--change_on_resume", "[model]"], other)
        assert status == 1
        assert said in out
    status, out, _ = here([*FIT, "--ckpt_path", "last", "--change_on_resume", "[model]"], other)
    assert status == 1
    assert "model.method.privacy=null must be what it was" in out
    (other / "checkpoints").rename(tmp_path / "away")
    for name in ("config.yaml", "summary.json", "rounds.ledger"):
        (other / name).unlink()
    status, out, _ = here([*FIT, *private()], other)  # whoever clears a folder is told of it
    assert status == 1
    assert "already holds a run (privacy.jsonl)" in out


def test_what_cannot_be_had_is_said_before_anything_is_written(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = ["--trainer.max_steps", "-1", "--trainer.max_epochs", "-1"]
    aim = private(target_epsilon=2.0)
    for asked, said in (
        ([*aim, *endless], "trainer.max_steps=-1 must be"),
        (private(noise_multiplier=1.0, accountant="moments"), "accountant"),
    ):
        status, out, root = here([*FIT, *asked], tmp_path / "run")
        assert status != 0
        assert said in out
        assert not root.exists()
    monkeypatch.setattr(account, "find_spec", lambda name: None)
    status, out, root = here([*FIT, *private()], tmp_path / "run")
    assert status == 1
    assert "privacy=ClientPrivacy needs dp-accounting for its account, which is not installed: pip install" in out
    assert not root.exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_ranks_killed_in_the_middle_of_rounds_forget_no_release(start: Callable, tmp_path: Path) -> None:
    many = ["--trainer.max_steps", "90", "--checkpoint.every_n_train_steps", "20", "--trainer.logger", "false"]
    launch = start(2, [*FIT, *private(target_epsilon=8.0), *many], tmp_path / "run", ("--max-restarts", "3"))
    until = time.monotonic() + 800.0
    for enough in (10, 45):
        while not (launch.root / "privacy.jsonl").is_file() or len(lines_whole(launch.root)) < enough:
            assert launch.process.poll() is None, launch.out[-3000:]
            assert time.monotonic() < until
            time.sleep(0.02)
        launch.ranks[0 if enough == 10 else 1].send_signal(signal.SIGKILL)
        time.sleep(1.0)
    assert launch.wait(800.0) == 0, launch.out[-3000:]
    found, summary = rounds(launch.root), json.loads((launch.root / "summary.json").read_text())
    # each kill costs the round that was under way at most, as the ledger's rounds are not made again
    assert sorted(set(found)) == list(range(summary["rounds"]))
    assert len(found) - summary["rounds"] <= 2
    cohorts = [sample_cohort(7, round, 8, 4) for round in range(90)]
    counts = Counter(client for round in found for client in cohorts[round])
    assert summary["privacy"]["releases_max"] == max(counts.values())
    assert summary["privacy"]["epsilon"] <= 8.0


def lines_whole(root: Path) -> list[bytes]:
    return [line for line in (root / "privacy.jsonl").read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def test_who_comes_too_late_has_released_and_who_drops_out_has_not(here: Here, tmp_path: Path) -> None:
    late = ["--data.speeds", "LogNormal", "--data.deadline", "0.6"]
    for name, options in {"late": late, "silent": ["--data.dropout", "0.5"]}.items():
        status, _, root = here([*FIT, *private(), *options, "--trainer.max_steps", str(HALF)], tmp_path / name)
        absent = json.loads((root / "summary.json").read_text())["absent_slots"]
        released = sum(
            1 if type(one) is int else one[1] - one[0] + 1 for line in lines(root) for one in line["clients"]
        )
        assert (status, absent > 0) == (0, True)
        assert released == 4 * HALF - (absent if name == "silent" else 0)
