"""A study that is killed again and again goes on to the table of one in which nothing happened, to the bit."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
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


def table(root: Path) -> tuple[list[str], dict[str, str]]:
    """All that a study tells, without what clocks say; and the digests."""
    comparison = compare(read_runs([root]), Aim("val/accuracy", "rounds", (0.1,)))
    tables = (comparison.grid, comparison.results, comparison.summary)
    frames = [frame[[c for c in frame if "seconds" not in c and c != "folder"]] for frame in tables]
    summaries = {path: json.loads(path.read_text()) for path in root.glob("**/summary.json")}
    digests = {str(path.relative_to(root)): found["digest"] for path, found in summaries.items()}
    return [frame.to_csv() for frame in frames], digests


class Studies:
    """Studies of one file, none of which outlives the test."""

    def __init__(self, file: Path) -> None:
        self._file, self._begun = file, list[subprocess.Popen[bytes]]()

    def begin(self, root: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "hiso_pl", "study", str(self._file), "--root", str(root), "--jobs", "2"]
        with root.with_suffix(".said").open("ab") as said:
            self._begun.append(subprocess.Popen(command, stdout=said, stderr=said))
        return self._begun[-1]

    def end(self) -> None:
        for study in self._begun:
            if study.poll() is None:
                left = [process for found in below(study) for process in found]
                study.kill()
                study.wait()
                psutil.wait_procs(left, 120)


@pytest.fixture
def studies(tmp_path: Path) -> Iterator[Studies]:
    (tmp_path / "own.yaml").write_text(STUDY)
    found = Studies(tmp_path / "own.yaml")
    yield found
    found.end()


def below(study: subprocess.Popen[bytes]) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """The process that is forked, and the runs."""
    with suppress(psutil.Error):  # as of one that ends meanwhile
        children = psutil.Process(study.pid).children()
        warm = [process for process in children if "hiso_pl.study.warm" in process.cmdline()]
        return warm, [run for process in warm for run in process.children()]
    return [], []


def begun_just_now(run: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return time.time() - run.create_time() < 0.2
    return False


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_study_killed_five_times_tells_the_same_table(tmp_path: Path, studies: Studies) -> None:
    straight, killed, chance = tmp_path / "straight", tmp_path / "killed", random.Random(14)
    assert studies.begin(straight).wait() == 0
    study = studies.begin(killed)
    for target in ("study", "run", "warm", "study", "run"):
        until = time.monotonic() + 240
        while not below(study)[1] and study.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(chance.uniform(0.0, 0.7))
        warm, runs = below(study)
        while target != "study" and study.poll() is None and time.monotonic() < until:
            warm, runs = below(study)
            runs = [run for run in runs if begun_just_now(run)]  # others may end before they are killed
            if runs:
                break
        victims = {"study": [study], "warm": warm, "run": runs}[target]
        for victim in victims[:1]:
            victim.send_signal(signal.SIGKILL)
        if target == "study":
            study.wait()
            assert not psutil.wait_procs([*warm, *runs], 120)[1]  # they end after their rounds
        if study.poll() is not None:
            study = studies.begin(killed)
    study.wait()
    assert studies.begin(killed).wait() == 0, killed.with_suffix(".said").read_text()
    said = killed.with_suffix(".said").read_text()
    assert "ended with status -9" in said
    assert "the process that it was a fork of was killed; it is gone on with" in said
    assert table(killed) == table(straight)
