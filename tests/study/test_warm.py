"""Runs that are forks of a process which has imported what they need are as good as processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import hiso_pl
from hiso_pl.ranks import environment
from hiso_pl.run.lock import held
from hiso_pl.study.processes import LOST, Alone, Forking, Handle, Starter, starter

FIT = ["fit", "--config", "quickstart", "--threads", "1", "--trainer.max_steps", "40", "--data.batch_size", "4"]
FIT += ["--trainer.val_check_interval", "20", "--model.method.num_directions", "2", "--trainer.default_root_dir"]
LONG = [*FIT[:-1], "--trainer.max_steps", "100000", FIT[-1]]


def begin(by: Starter, folder: Path, arguments: list[str] = FIT, until: int | None = None) -> Handle:
    folder.mkdir(exist_ok=True)
    resume = ["--ckpt_path", "last"] if (folder / "checkpoints").exists() else []
    return by.start([*arguments, str(folder), *resume], folder / "fit.log", until)


def until(found: Any, seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.02)
    raise TimeoutError


def pid_of(run: Handle) -> int:
    return until(lambda: run.poll() is None and run.pid)  # type: ignore[attr-defined, no-any-return]


def left_behind(folder: Path) -> tuple[dict[str, Any], list[str], list[str]]:
    """What a run leaves, without what is each process's own."""
    summary = json.loads((folder / "summary.json").read_text())
    for name in ("seconds", "forwards_per_second"):
        del summary[name]
    names = sorted(re.sub(r"\d{6,}\.\S*\.\d+\.(\d+)$", r"\1", path.name) for path in folder.rglob("*"))
    said = (folder / "fit.log").read_text().replace(str(folder), "FOLDER").splitlines()
    return summary, names, said


@pytest.mark.slow
def test_a_fork_leaves_what_a_process_of_its_own_leaves(tmp_path: Path) -> None:
    """Digest, summary, files and log; of one stopped after its first rounds and gone on with the first three."""
    with held(tmp_path) as kept:
        forking = Forking(kept)
        runs = [begin(Alone(kept), tmp_path / "alone"), begin(forking, tmp_path / "fork")]
        assert begin(forking, tmp_path / "parts", until=20).wait() == 0
        stopped = json.loads((tmp_path / "parts" / "summary.json").read_text())
        assert (stopped["rounds"], stopped["interrupted"]) == (20, True)
        assert stopped["metrics"]["val/loss"]["last"] != stopped["metrics"]["val/loss"]["first"]
        again = [begin(forking, tmp_path / name) for name in ("parts", "second")]
        assert [run.wait() for run in (*runs, *again)] == [0] * 4
        forking.close()
    alone, fork, second = (left_behind(tmp_path / name) for name in ("alone", "fork", "second"))
    assert alone == fork == second
    assert not any("rror" in line for line in alone[2])
    summary, names, _ = left_behind(tmp_path / "parts")
    assert summary == alone[0]
    assert {*names} - {*alone[1]} == {"config.until-round-20.yaml"}  # as the later part has another ckpt_path
    assert (tmp_path / "parts" / "rounds.ledger").read_bytes() == (tmp_path / "alone" / "rounds.ledger").read_bytes()


@pytest.mark.slow
def test_what_is_killed_leaves_nothing_that_goes_on_for_ever(tmp_path: Path) -> None:
    """A run, the process that is forked, and the study; an interrupt lets a run end after its round."""
    forking = Forking(None)
    runs = [begin(forking, tmp_path / name, LONG) for name in ("killed", "interrupted", "orphan")]
    pids = [pid_of(run) for run in runs]
    until(lambda: {os.getsid(pid) for pid in pids} == set(pids))
    until(lambda: all((tmp_path / name / "rounds.ledger").exists() for name in ("killed", "interrupted", "orphan")))
    os.kill(pids[0], signal.SIGKILL)
    runs[1].interrupt()
    assert [run.wait() for run in runs[:2]] == [-signal.SIGKILL, 0]
    os.kill(psutil.Process(pids[2]).ppid(), signal.SIGKILL)
    assert runs[2].wait() == LOST
    for name in ("interrupted", "orphan"):
        assert json.loads((tmp_path / name / "summary.json").read_text())["interrupted"] is True
    assert "What started this run has been killed" in (tmp_path / "orphan" / "fit.log").read_text()
    assert begin(forking, tmp_path / "mistaken", ["fit", "--trainer.max_rounds"]).wait() == 2  # from another one
    assert "trainer.max_rounds is no option" in (tmp_path / "mistaken" / "fit.log").read_text()
    forking.close()


def test_ranks_are_launched_and_one_process_is_forked_where_that_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(starter(1, None), Forking)
    assert isinstance(starter(2, None), Alone)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert isinstance(starter(1, None), Alone)


def test_a_run_of_its_own_has_a_session_and_knows_its_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text(
        '#!/bin/sh\necho "$@" $HISO_PL_STUDY $HISO_PL_STOP_AFTER; cut -d" " -f6 /proc/$$/stat; echo $$'
    )
    (tmp_path / "python").chmod(0o755)
    run = Alone(None, ("launch", "--nproc", "2")).start(["fit", "--x"], tmp_path / "log", 7)
    assert run.wait() == 0
    said, session, pid = (tmp_path / "log").read_text().splitlines()
    assert said == f"-m hiso_pl launch --nproc 2 fit --x {os.getpid()} 7"
    assert session == pid


def test_a_run_whose_study_has_gone_is_an_orphan(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not environment.orphaned()
    monkeypatch.setenv(environment.BY_STUDY, str(os.getppid()))
    assert not environment.orphaned()
    monkeypatch.setenv(environment.BY_STUDY, "1")
    assert environment.orphaned() is (os.getppid() != 1)


SPOILT = """
import os, sys, types
from hiso_pl.study import warm
sys.modules["torch"] = types.SimpleNamespace(cuda=types.SimpleNamespace(_is_in_bad_fork=lambda: True))
if os.fork() == 0:
    warm._become({"log": sys.argv[1], "environment": {}, "arguments": ["--version"]})
    sys.exit("it went on")
os.wait()
"""


def test_a_fork_in_which_a_gpu_could_not_be_used_becomes_a_process_of_its_own(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", SPOILT, str(tmp_path / "log")], check=True, timeout=60)
    assert (tmp_path / "log").read_text() == f"hiso-pl {hiso_pl.__version__}\n"
