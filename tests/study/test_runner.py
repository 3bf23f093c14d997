from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from hiso_pl.cli import program
from hiso_pl.run.checkpoint import newest
from hiso_pl.run.lock import LOCK, held
from hiso_pl.study.grid import FOLDER, Setting
from hiso_pl.study.runner import Run, carry_out, check_asked, last_line, note_asked, start

ASKED = {"test_at_end": "False", "trainer.max_steps": "10"}


def finish(folder: Path, **change: Any) -> None:
    """Leaves what a complete run of ten rounds leaves."""
    summary = {"rounds": 10, "interrupted": False, "metrics": {"val/accuracy": {"best": 0.5, "last": 0.4}}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps({**summary, "comm": {"paper_kb": 1.5}, **change}))


def run_of(folder: Path, *command: str, **asked: str) -> Run:
    return Run(folder, Setting(0.1, 1), [sys.executable, "-c", *command], ASKED | asked)


def test_only_a_run_with_all_rounds_and_its_test_is_complete(tmp_path: Path) -> None:
    run, tested = run_of(tmp_path), run_of(tmp_path, test_at_end="True")
    assert not run.complete
    for change, expected in (({}, True), ({"rounds": 9}, False), ({"interrupted": True}, False)):
        finish(tmp_path, **change)
        assert run.complete is expected
    finish(tmp_path)
    assert not tested.complete
    finish(tmp_path, metrics={"test/accuracy": {"last": 0.5}})
    assert tested.complete
    (tmp_path / "summary.json").write_text('{"rounds"')
    assert not run.complete


def test_a_run_of_another_configuration_is_refused_by_folder_and_key(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    note_asked(folder, Setting(0.1, 1), ASKED | {"data.cohort": "2", FOLDER: "here"})
    check_asked(folder, ASKED | {"data.cohort": "2", FOLDER: "there"})
    with pytest.raises(ValueError, match=r"run holds runs with data\.cohort=2, but 3 is asked"):
        check_asked(folder, ASKED | {"data.cohort": "3"})
    with pytest.raises(ValueError, match=r"data\.new=absent"):
        check_asked(folder, ASKED | {"data.cohort": "2", "data.new": "1"})
    finish(tmp_path / "other")
    with pytest.raises(ValueError, match="has not begun"):
        check_asked(tmp_path / "other", ASKED)


def test_a_run_without_a_checkpoint_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("half")
    with held(tmp_path) as lock:
        with pytest.raises(ValueError, match=r"holds 'config.yaml' and no asked.json, so it is of no study"):
            start(run_of(tmp_path / "run", ""), lock)
        assert (tmp_path / "run" / "config.yaml").read_text() == "half"
        note_asked(tmp_path / "run", Setting(0.1, 1), ASKED)
        start(run_of(tmp_path / "run", "import sys; print(sys.argv)"), lock).wait()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"asked.json", "fit.log"}
    assert last_line(tmp_path / "run") == "['-c']"


STUDY = """
import pathlib, sys, time
from hiso_pl.run.lock import LOCK, held
from hiso_pl.study.grid import Setting
from hiso_pl.study.runner import Run, start
root = pathlib.Path(sys.argv[1])
with held(root) as kept:
    run = Run(root / "run", Setting(0.1, 1), [sys.executable, "-c", "import time; time.sleep(60)"], {})
    print(start(run, kept).pid, flush=True)
    time.sleep(60)
"""


def test_two_studies_do_not_share_a_folder_nor_does_one_with_a_run_that_outlived_it(tmp_path: Path) -> None:
    study = subprocess.Popen([sys.executable, "-c", STUDY, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert study.stdout is not None
    left = int(study.stdout.readline())
    try:
        with pytest.raises(ValueError, match=f"in use by process {study.pid}"), held(tmp_path):
            pass
        study.kill()
        study.wait()
        with pytest.raises(ValueError, match="outlived"), held(tmp_path):
            pass
    finally:
        os.kill(left, signal.SIGKILL)
        study.kill()
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with contextlib.suppress(ValueError), held(tmp_path):
            return
        time.sleep(0.05)
    pytest.fail("the lock outlives all its processes")


def test_a_run_that_somebody_else_carries_out_is_not_thrown_away(tmp_path: Path) -> None:
    """As one resumed by hand before its first checkpoint."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("theirs")
    note_asked(tmp_path / "run", Setting(0.1, 1), ASKED)
    with held(tmp_path) as kept, (tmp_path / "run" / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        start(run_of(tmp_path / "run", ""), kept).wait()
    assert (tmp_path / "run" / "config.yaml").read_text() == "theirs"


# With stand-ins for fit

STAND_IN = """
import json, pathlib, signal, sys, time
folder, kind = pathlib.Path(sys.argv[1]), sys.argv[2]
came = []
signal.signal(signal.SIGINT, lambda *_: came.append(1))
(folder / "began").write_text(str(time.monotonic()))
until = time.monotonic() + (0.3 if kind != "long" else 60)
while time.monotonic() < until and not came:
    time.sleep(0.01)
(folder / "ended").write_text(str(time.monotonic()))
if kind == "fails":
    sys.exit("hiso-pl: error: lr=-1.0 must be finite")
summary = {"rounds": 3 if came else 10, "interrupted": bool(came), "metrics": {"val/accuracy": {"best": 1, "last": 1}}}
(folder / "summary.json").write_text(json.dumps({**summary, "comm": {"paper_kb": 1}}))
"""


def stand_ins(root: Path, *kinds: str) -> list[Run]:
    folders = [root / f"{i}-{kind}" for i, kind in enumerate(kinds)]
    return [run_of(folder, STAND_IN, str(folder), kind) for folder, kind in zip(folders, kinds, strict=True)]


@pytest.fixture
def lock(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with held(tmp_path_factory.mktemp("lock")) as number:
        yield number


def test_a_failing_run_is_named_with_its_error_and_the_others_go_on(tmp_path: Path, lock: int) -> None:
    runs = stand_ins(tmp_path, "good", "fails", "good")
    failed, came = carry_out(runs, 1, lock, 0.01)
    assert came == 0
    assert [run.complete for run in runs] == [True, False, True]
    assert failed == [f"{runs[1].folder} ended with status 1: hiso-pl: error: lr=-1.0 must be finite"]


def test_an_error_of_an_earlier_start_is_not_told_again(
    tmp_path: Path, lock: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hiso_pl.study.runner.newest", lambda folder: folder)
    for said in ("hiso-pl: error: no such file", "killed by the machine"):
        start(run_of(tmp_path, f"import sys; print({said!r}, *sys.argv[1:])"), lock).wait()
    assert last_line(tmp_path) == "killed by the machine --ckpt_path last"


def test_no_more_runs_at_a_time_than_jobs(tmp_path: Path, lock: int) -> None:
    runs = stand_ins(tmp_path, *["good"] * 5)
    assert carry_out(runs, 2, lock, 0.01) == ([], 0)
    times = [tuple(float((run.folder / name).read_text()) for name in ("began", "ended")) for run in runs]
    alive = [sum(began <= at < ended for began, ended in times) for at, _ in times]
    assert max(alive) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_runs_cleanly_and_begins_no_other(tmp_path: Path, lock: int, number: signal.Signals) -> None:
    runs = stand_ins(tmp_path, "long", "long", "long")

    def interrupt() -> None:
        until = time.monotonic() + 30
        while not all((run.folder / "began").exists() for run in runs[:2]) and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    before = signal.getsignal(number)
    assert carry_out(runs, 2, lock, 0.01) == ([], number)
    assert signal.getsignal(number) is before
    assert [json.loads((run.folder / "summary.json").read_text())["interrupted"] for run in runs[:2]] == [True, True]
    assert not runs[2].folder.exists()


# The real program


@pytest.mark.slow
def test_a_killed_run_is_resumed_and_ends_as_if_nothing_had_been(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], process_settings: None
) -> None:
    """About 30 s: a process of the program takes several to start."""
    fit = ["--config", "quickstart", "--model.lr_scheduler", "null", "--data.batch_size=4"]
    fit += ["--trainer.max_steps", "160", "--trainer.val_check_interval", "20", "--checkpoint.every_n_train_steps=30"]
    own = ["--lrs", "0.006", "--target", "0.05", "--by", "rounds"]
    folder, straight = tmp_path / "killed" / "lr-0.006" / "seed-1", tmp_path / "straight"
    arguments = ["study", "--root", str(tmp_path / "killed"), *own, "--", *fit]

    def kill() -> None:
        until = time.monotonic() + 60
        while newest(folder) is None and time.monotonic() < until:
            time.sleep(0.02)
        for child in psutil.Process().children():
            if str(folder) in child.cmdline():
                os.kill(child.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert program.main(arguments) == 1
    killer.join()
    assert f"1 run(s) failed: {folder} ended with status -9" in capsys.readouterr().err
    assert not (folder / "summary.json").exists()
    assert "Not complete: lr-0.006/seed-1." in (tmp_path / "killed" / "study.md").read_text()

    assert program.main(arguments) == 0
    assert "--ckpt_path last" in (folder / "fit.log").read_text()
    told = capsys.readouterr().out
    assert program.main(["study", "--root", str(straight), *own, "--", *fit]) == 0
    assert capsys.readouterr().out == told  # the table of a study in which nothing happened
    results = [json.loads((root / "study.json").read_text()) for root in (tmp_path / "killed", straight)]
    curves = [result["runs"][0]["curve"] for result in results]
    for curve in curves:
        assert [point[0] for point in curve] == list(range(0, 161, 20))
        assert curve == sorted(curve, key=lambda point: point[-1])
        for point in curve:
            point.pop()  # the seconds, which are each run's own
    assert results[0] == results[1]  # with digests and whole curves

    written = (folder / "summary.json").stat().st_mtime_ns
    assert program.main(arguments) == 0
    assert (folder / "summary.json").stat().st_mtime_ns == written  # it was not run again
    capsys.readouterr()
    assert program.main([*arguments, "--data.cohort", "3"]) == 1
    assert "killed holds runs with data.init_args.cohort=4, but 3 is asked" in capsys.readouterr().err
    assert program.main([*arguments[:3], *own, "--report"]) == 0
    assert capsys.readouterr().out == told
