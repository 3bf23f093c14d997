from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from hiso_pl.run.lock import LOCK, held
from hiso_pl.study import folders
from hiso_pl.study.folders import check_root, check_run, last_line, mend, note_asked, prepare
from hiso_pl.study.grid import Ask, Setting
from hiso_pl.study.names import FOLDER
from hiso_pl.study.processes import LOST, Handle
from hiso_pl.study.runner import Ended, carry_out
from hiso_pl.study.state import complete_summary

ASKED = {"test_at_end": "False", "trainer.max_steps": "10", "trainer.val_check_interval": "5"}
COMMON = {"data.cohort": "2"}


def ask_of(folder: Path, until: int | None = None, **asked: str) -> Ask:
    return Ask(Setting(folder.name, "", 0.1, 1), folder, (str(folder), folder.name), ASKED | asked, until)


def finish(folder: Path, **change: Any) -> None:
    """Leaves what a complete run of ten rounds leaves."""
    summary = {"rounds": 10, "interrupted": False, "metrics": {"val/accuracy": {"best": 0.5, "last": 0.4}}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps({**summary, "comm": {"paper_kb": 1.5}, **change}))


# Folders


def test_only_a_run_with_all_rounds_and_its_test_is_complete(tmp_path: Path) -> None:
    tested = ASKED | {"test_at_end": "True"}
    assert not complete_summary(tmp_path, ASKED)
    for change, expected in (({}, True), ({"rounds": 9}, False), ({"interrupted": True}, False)):
        finish(tmp_path, **change)
        assert bool(complete_summary(tmp_path, ASKED)) is expected
    finish(tmp_path)
    assert not complete_summary(tmp_path, tested)
    finish(tmp_path, metrics={"test/accuracy": {"last": 0.5}})
    assert complete_summary(tmp_path, tested)
    for damaged in ('{"rounds"', "[]", "null", "\0"):
        (tmp_path / "summary.json").write_text(damaged)
        assert not complete_summary(tmp_path, ASKED)


def test_a_run_or_study_of_another_configuration_is_refused_by_folder_and_key(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    note_asked(folder, Setting("", "", 0.1, 1), ASKED | {"data.cohort": "2", FOLDER: "here"})
    check_run(ask_of(folder, **{"data.cohort": "2", FOLDER: "there"}))
    with pytest.raises(ValueError, match=r"run holds runs with data\.cohort=2, but 3 is asked"):
        check_run(ask_of(folder, **{"data.cohort": "3"}))
    with pytest.raises(ValueError, match=r"data\.new=absent"):
        check_root(folder, ASKED | {"data.cohort": "2", "data.new": "1"})
    finish(tmp_path / "other")
    with pytest.raises(ValueError, match="has not begun"):
        check_run(ask_of(tmp_path / "other"))
    (tmp_path / "yours").mkdir()
    (tmp_path / "yours" / "thesis.tex").write_text("years")
    with pytest.raises(ValueError, match=r"holds 'thesis.tex' and no asked.json, so it is of no study"):
        prepare(ask_of(tmp_path / "yours"))
    assert (tmp_path / "yours" / "thesis.tex").exists()
    (folder / "asked.json").write_text('{"setting"')
    with pytest.raises(ValueError, match=r"asked.json cannot be read, so nobody .* remove the file"):
        check_root(folder, ASKED)


def test_what_is_damaged_is_said_and_carried_out_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    note_asked(tmp_path, None, COMMON)
    for name in ("whole", "summary", "asked"):
        note_asked(tmp_path / name, Setting(name, "", 0.1, 1), ASKED)
        finish(tmp_path / name)
    (tmp_path / "summary" / "summary.json").write_text('{"rounds": 10, "interr')
    (tmp_path / "asked" / "asked.json").write_text("")
    with caplog.at_level(logging.WARNING):
        mend(tmp_path)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"{tmp_path}/asked/asked.json cannot be read: its run is carried out anew.",
        f"{tmp_path}/summary/summary.json cannot be read: what is missing of its run is carried out again.",
    ]
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json")) == [
        *("asked.json", "summary/asked.json", "whole/asked.json", "whole/summary.json")
    ]


def test_a_run_without_a_checkpoint_that_can_be_read_begins_anew(tmp_path: Path) -> None:
    ask = ask_of(tmp_path / "run")
    assert prepare(ask) is False
    (ask.folder / "checkpoints").mkdir()
    (ask.folder / "checkpoints" / "last.ckpt").write_bytes(b"cut short")
    (ask.folder / "config.yaml").write_text("half")
    assert prepare(ask) is False
    assert {path.name for path in ask.folder.iterdir()} == {"asked.json"}


def test_what_a_run_has_released_is_not_thrown_away(tmp_path: Path) -> None:
    """A private run without a checkpoint goes on from its ledger, and its releases count."""
    ask = ask_of(tmp_path / "run")
    assert prepare(ask) is False
    (ask.folder / "privacy.jsonl").write_text("releases")
    assert prepare(ask) is True
    assert (ask.folder / "privacy.jsonl").read_text() == "releases"
    (ask.folder / "asked.json").write_text("")
    with pytest.raises(ValueError, match=r"asked.json cannot be read, and privacy.jsonl beside it tells of releases"):
        mend(tmp_path)
    assert (ask.folder / "privacy.jsonl").exists()


def test_a_run_that_somebody_else_carries_out_is_not_thrown_away(tmp_path: Path) -> None:
    """As one resumed by hand before its first checkpoint."""
    ask = ask_of(tmp_path / "run")
    note_asked(ask.folder, ask.setting, ASKED)
    (ask.folder / "config.yaml").write_text("theirs")
    holding = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", holding, str(ask.folder / LOCK)], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        other.stdout.readline()
        assert prepare(ask) is False
    finally:
        other.kill()
        other.wait()
    assert (ask.folder / "config.yaml").read_text() == "theirs"


# With stand-ins for fit

STAND_IN = """
import json, pathlib, signal, sys, time
folder, kind, until = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
came = []
signal.signal(signal.SIGINT, lambda *_: came.append(1))
(folder / "began").write_text(str(time.monotonic()))
end = time.monotonic() + (0.3 if kind != "long" else 60)
while time.monotonic() < end and not came:
    time.sleep(0.01)
(folder / "ended").write_text(str(time.monotonic()))
if kind == "fails":
    sys.exit("hiso-pl: error: lr=-1.0 must be finite")
if kind == "full":
    sys.exit("hiso-pl: error: checkpoints/last.ckpt: No space left on device")
summary = {"rounds": 3 if came else until, "interrupted": bool(came) or until < 10, "metrics": {}}
(folder / "summary.json").write_text(json.dumps({**summary, "comm": {"paper_kb": 1}}))
"""


class StandIns:
    """Starts stand-ins; the first ``lost`` of them lose their parent."""

    def __init__(self, lost: int = 0) -> None:
        self.begun: list[tuple[str, int | None]] = []
        self.lost, self.closed = lost, False

    def start(self, arguments: Sequence[str], log: Path, until: int | None) -> Handle:
        self.begun.append((arguments[2], until))
        if len(self.begun) <= self.lost:
            return Lost()
        command = [sys.executable, "-S", "-c", STAND_IN, *arguments[1:3], str(until or 10)]
        with log.open("ab") as said:
            return Process(command, stdout=said, stderr=said, start_new_session=True)

    def close(self) -> None:
        self.closed = True


class Process(subprocess.Popen[bytes]):
    def interrupt(self) -> None:
        self.send_signal(signal.SIGINT)


class Lost:
    def poll(self) -> int | None:
        return LOST

    def interrupt(self) -> None:
        raise AssertionError("it has ended")

    def wait(self) -> int:
        return LOST


class Whole:
    """Asks for each run as far as it is wanted."""

    def __init__(self, *asks: Ask) -> None:
        self.asks = asks

    def next(self, failed: Collection[Setting] = ()) -> list[Ask]:
        return [ask for ask in self.asks if ask.setting not in failed and not self.there(ask)]

    @staticmethod
    def there(ask: Ask) -> bool:
        found = folders.read_json(ask.folder / "summary.json")
        return isinstance(found, dict) and found["rounds"] >= (ask.until or 10)

    @property
    def foreseen(self) -> int:
        return len(self.asks)

    @property
    def reached(self) -> int:
        return sum(map(self.there, self.asks))


class Halves(Whole):
    """The first half of each run, and then the whole of the one whose name comes first among those that came to it."""

    def next(self, failed: Collection[Setting] = ()) -> list[Ask]:
        halves = [Ask(ask.setting, ask.folder, ask.arguments, ask.configuration, 5) for ask in self.asks]
        alive = [ask for ask in halves if ask.setting not in failed]
        if missing := [ask for ask in alive if not self.there(ask)]:
            return missing
        best = min(alive, key=lambda ask: ask.setting.method)
        return [ask for ask in self.asks if ask.setting == best.setting and not self.there(ask)]


def asks(root: Path, *kinds: str) -> list[Ask]:
    found = []
    for i, kind in enumerate(kinds):
        folder = root / f"{i}-{kind}"
        found.append(Ask(Setting(folder.name, "", 0.1, 1), folder, (str(folder), kind), ASKED))
    return found


def test_a_failing_run_is_named_with_its_error_and_the_others_go_on(tmp_path: Path) -> None:
    runs, by = asks(tmp_path, "good", "fails", "good"), StandIns()
    failed = [f"{runs[1].folder} ended with status 1: hiso-pl: error: lr=-1.0 must be finite"]
    assert carry_out(tmp_path, COMMON, Whole(*runs), by=by) == Ended(failed, 0)
    assert [(run.folder / "summary.json").exists() for run in runs] == [True, False, True]
    assert by.closed
    assert json.loads((tmp_path / "asked.json").read_text()) == {"setting": None, "configuration": COMMON}
    again = StandIns()
    assert carry_out(tmp_path, COMMON, Whole(*runs), by=again) == Ended(failed, 0)
    assert again.begun == [("fails", None)]  # what is there is not repeated
    shutil.rmtree(runs[0].folder)  # by hand
    again = StandIns()
    assert carry_out(tmp_path, COMMON, Whole(runs[0], runs[2]), by=again) == Ended([], 0)
    assert again.begun == [("good", None)]


def test_runs_stop_where_they_are_asked_to_and_the_better_ones_go_on(tmp_path: Path) -> None:
    runs, by = asks(tmp_path, "fails", "good", "good"), StandIns()
    ended = carry_out(tmp_path, COMMON, Halves(*runs), by=by)
    assert by.begun == [("fails", 5), ("good", 5), ("good", 5), ("good", None)]
    assert len(ended.failed) == 1
    rounds = [json.loads((run.folder / "summary.json").read_text())["rounds"] for run in runs[1:]]
    assert rounds == [10, 5]


def test_a_round_without_a_validation_is_no_place_to_stop(tmp_path: Path) -> None:
    ask = ask_of(tmp_path / "run", until=7)
    with pytest.raises(ValueError, match=r"cannot be judged after 7 rounds: trainer.val_check_interval=5 must divide"):
        carry_out(tmp_path / "root", COMMON, Whole(ask), by=StandIns())
    assert not (tmp_path / "root").exists()


def test_a_run_whose_parent_was_killed_is_gone_on_with_but_not_for_ever(tmp_path: Path) -> None:
    runs, by = asks(tmp_path, "good"), StandIns(lost=3)
    assert carry_out(tmp_path, COMMON, Whole(*runs), by=by) == Ended([], 0)
    assert len(by.begun) == 4
    (runs[0].folder / "summary.json").unlink()
    failed, _ = carry_out(tmp_path, COMMON, Whole(*runs), by=StandIns(lost=100))
    assert [line.partition(" ended ")[0] for line in failed] == [str(runs[0].folder)]


def test_a_full_disk_is_one_line_and_ends_the_study(tmp_path: Path) -> None:
    runs, by = asks(tmp_path, "long", "full", "good"), StandIns()
    with pytest.raises(OSError, match=r"No space left on device: '.*/1-full'"):
        carry_out(tmp_path, COMMON, Whole(*runs), jobs=2, by=by)
    assert by.begun == [("long", None), ("full", None)]
    assert json.loads((runs[0].folder / "summary.json").read_text())["interrupted"] is True


def test_an_error_of_an_earlier_start_is_not_told_again(tmp_path: Path) -> None:
    (tmp_path / "fit.log").write_text(f"{folders.MARK}a\nhiso-pl: error: no such file\n{folders.MARK}b\nkilled\n")
    assert last_line(tmp_path) == "killed"
    assert last_line(tmp_path / "none") == "it said nothing"


def test_no_more_runs_at_a_time_than_jobs(tmp_path: Path) -> None:
    runs = asks(tmp_path, *["good"] * 5)
    assert carry_out(tmp_path, COMMON, Whole(*runs), jobs=2, by=StandIns()) == Ended([], 0)
    times = [tuple(float((run.folder / name).read_text()) for name in ("began", "ended")) for run in runs]
    alive = [sum(began <= at < ended for began, ended in times) for at, _ in times]
    assert max(alive) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_runs_cleanly_and_begins_no_other(tmp_path: Path, number: signal.Signals) -> None:
    runs = asks(tmp_path, "long", "long", "long")

    def interrupt() -> None:
        until = time.monotonic() + 30
        while not all((run.folder / "began").exists() for run in runs[:2]) and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    before = signal.getsignal(number)
    assert carry_out(tmp_path, COMMON, Whole(*runs), jobs=2, by=StandIns()) == Ended([], number)
    assert signal.getsignal(number) is before
    assert [json.loads((run.folder / "summary.json").read_text())["interrupted"] for run in runs[:2]] == [True, True]
    assert not runs[2].folder.exists()


STUDY = """
import pathlib, sys, time
from hiso_pl.run.lock import held
from hiso_pl.study.processes import Alone
root = pathlib.Path(sys.argv[1])
sys.executable = str(root / "python")
with held(root) as kept:
    print(Alone(kept).start([], root / "fit.log", None).pid, flush=True)
    time.sleep(60)
"""


def test_two_studies_do_not_share_a_folder_nor_does_one_with_a_run_that_outlived_it(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\nexec sleep 60")
    (tmp_path / "python").chmod(0o755)
    study = subprocess.Popen([sys.executable, "-c", STUDY, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert study.stdout is not None
    left = int(study.stdout.readline())
    try:
        with pytest.raises(ValueError, match=f"in use by process {study.pid}"):
            carry_out(tmp_path, COMMON, Whole(), by=StandIns())
        study.kill()
        study.wait()
        with pytest.raises(ValueError, match="outlived"):
            carry_out(tmp_path, COMMON, Whole(), by=StandIns())
    finally:
        os.kill(left, signal.SIGKILL)
        study.kill()
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with contextlib.suppress(ValueError), held(tmp_path):
            return
        time.sleep(0.05)
    pytest.fail("the lock outlives all its processes")


def test_the_status_of_a_study_that_a_signal_ended_is_the_signals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from types import SimpleNamespace

    from hiso_pl.cli import program
    from hiso_pl.study import grid, runner, search

    monkeypatch.setattr(grid, "Grid", lambda *_: SimpleNamespace(common={}))
    monkeypatch.setattr(search, "Search", lambda *_: None)
    monkeypatch.setattr(runner, "carry_out", lambda *_, **__: Ended([], signal.SIGTERM))
    assert program.main(["study", "--root", str(tmp_path / "s"), "--", "--config", "quickstart"]) == 143
    assert "error" not in capsys.readouterr().err
