"""A study that is killed again and again goes on to the table of one in which nothing happened, to the bit."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from hiso_pl.report.comparison import compare
from hiso_pl.report.run import read_runs
from hiso_pl.report.run_data import Aim

STUDY = """\
config: [quickstart]
options:
  trainer.max_steps: 60
  trainer.val_check_interval: 20
  checkpoint.every_n_train_steps: 15
  data.batch_size: 4
  model.method.num_directions: 2
methods:
  HiSo: {config: method/hiso, lrs: [0.01, 0.04]}
  one scalar: {config: method/scalar, lrs: [0.02]}
seeds: [1, 2]
rates: {halving: {first: 0.25}}
by: rounds
targets: [0.1]
"""


def table(root: Path) -> tuple[str, str, dict[str, str]]:
    """All that a study tells, without what clocks say; and the digests."""
    comparison = compare(read_runs([root]), Aim("val/accuracy", "rounds", (0.1,)))
    frames = [frame[[c for c in frame if "seconds" not in c]] for frame in (comparison.grid, comparison.results)]
    summaries = {path: json.loads(path.read_text()) for path in root.glob("**/summary.json")}
    digests = {str(path.relative_to(root)): found["digest"] for path, found in summaries.items()}
    return frames[0].to_csv(), frames[1].to_csv(), digests


def begin(file: Path, root: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "hiso_pl", "study", str(file), "--root", str(root), "--jobs", "2"]
    with root.with_suffix(".said").open("ab") as said:
        return subprocess.Popen(command, stdout=said, stderr=said)


def below(study: psutil.Process) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """The process that is forked, and the runs."""
    with suppress(psutil.Error):  # as of one that ends meanwhile
        warm = [process for process in study.children() if "hiso_pl.study.warm" in process.cmdline()]
        return warm, [run for process in warm for run in process.children()]
    return [], []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_study_killed_five_times_tells_the_same_table(tmp_path: Path) -> None:
    (file := tmp_path / "own.yaml").write_text(STUDY)
    straight, killed, chance = tmp_path / "straight", tmp_path / "killed", random.Random(14)
    assert begin(file, straight).wait() == 0
    study = begin(file, killed)
    for target in ("study", "run", "warm", "study", "run"):
        victims = _when_there(study, target)
        time.sleep(chance.uniform(0.0, 4.0))
        left = [process for found in below(psutil.Process(study.pid)) for process in found]
        victim = next((process for process in victims if process.is_running()), None)
        if victim is not None:
            victim.send_signal(signal.SIGKILL)
        if target == "study":
            assert study.wait() == -signal.SIGKILL
            assert not psutil.wait_procs(left, 120)[1]  # they end after their rounds
        if study.poll() is not None:
            study = begin(file, killed)
    study.wait()
    assert begin(file, killed).wait() == 0, killed.with_suffix(".said").read_text()
    said = killed.with_suffix(".said").read_text()
    assert "ended with status -9" in said
    assert "the process that it was a fork of was killed; it is gone on with" in said
    assert table(killed) == table(straight)


def _when_there(study: subprocess.Popen[bytes], target: str) -> list[psutil.Process]:
    """The processes that may be killed, once there are runs."""
    until = time.monotonic() + 240
    while time.monotonic() < until and study.poll() is None:
        warm, runs = below(psutil.Process(study.pid))
        if runs:
            return {"study": [psutil.Process(study.pid)], "warm": warm, "run": runs}[target]
        time.sleep(0.05)
    return []
