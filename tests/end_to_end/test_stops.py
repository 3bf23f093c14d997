"""A run that a signal stops says what is saved and how to go on, by a command that does; so does a launch of ranks."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
from lightning.pytorch import Callback

from hiso_pl.cli import program as cli

from .conftest import HERE, environment, of_class

pytestmark = pytest.mark.usefixtures("process_settings")

STOPPED = r"Stopped after round (\d+) of (\d+), which is in (.*)\. Go on with: (.*) (fit .*)"


class Striking(Callback):
    """Sends a signal to its own process in a round.

    Args:
        number: The signal.
        round: The round.
    """

    def __init__(self, number: int, round: int = 2) -> None:
        self.number, self.round = number, round

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.round:
            os.kill(os.getpid(), self.number)


@pytest.fixture
def run(base, caplog, capfd):
    """The status of a run, and what it said."""

    def run(root, *args, first=base):
        caplog.clear()
        capfd.readouterr()
        with caplog.at_level(logging.WARNING, logger="hiso_pl"):
            status = cli.main([*first, *args, *(["--trainer.default_root_dir", str(root)] if first is base else [])])
        return status, caplog.text + capfd.readouterr().err

    return run


def striking(number):
    return "--trainer.callbacks+", of_class(f"{__name__}.Striking", number=int(number))


def summary(root):
    return json.loads((root / "summary.json").read_text())


def test_every_signal_ends_a_run_that_can_be_gone_on_with(run, tmp_path):
    assert run(tmp_path / "whole")[0] == 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        root = tmp_path / f"run {number}"
        before = signal.getsignal(number)
        status, said = run(root, *striking(number))
        assert status == 0
        assert signal.getsignal(number) is before
        assert f"hiso-pl: {signal.Signals(number).name}: the run ends after its round; once more ends it" in said
        done, rounds, held, _, command = re.search(STOPPED, said).groups()
        assert (done, rounds, held) == ("3", "12", str(root / "checkpoints" / "last.ckpt"))
        assert summary(root)["interrupted"] is True
        status, said = run(root, "--trainer.callbacks", "null", first=shlex.split(command))
        assert (status, "Stopped" in said) == (0, False)
        assert summary(root)["digest"] == summary(tmp_path / "whole")["digest"]


def test_a_hangup_that_nohup_has_ignored_ends_nothing(run, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        status, said = run(tmp_path, *striking(signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (status, "SIGHUP" in said) == (0, False)
    assert summary(tmp_path)["rounds"] == 12


@pytest.mark.slow
def test_another_signal_ends_a_run_at_once(base, tmp_path):
    hang = of_class("trouble.InForward", path=str(tmp_path / "where"), rank=0, round=4, kind="hang")
    args = [*base, "--trainer.default_root_dir", str(tmp_path / "run"), "--trainer.callbacks+", hang]
    command = [sys.executable, "-m", "hiso_pl", *args]
    with subprocess.Popen(command, env=environment(), stdout=-1, stderr=-1, text=True) as process:
        wait_for(tmp_path / "where", process)
        process.send_signal(signal.SIGTERM)
        time.sleep(1.5)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert err.splitlines()[-1].startswith("hiso-pl: error: ended at once, as SIGTERM came again")


def wait_for(path, process):
    until = time.monotonic() + 120
    while not path.exists() and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.slow
def test_a_launch_says_last_why_it_failed_or_stopped_and_its_command_goes_on(run, base, tmp_path):
    assert run(tmp_path / "whole")[0] == 0
    root = tmp_path / "run"
    launch = [sys.executable, "-m", "hiso_pl", "launch", "--nproc", "2"]
    place = ["--trainer.default_root_dir", str(root)]
    trouble = of_class("trouble.InForward", path=str(tmp_path / "where"), rank=1, round=4, kind="bug")
    done = started([*launch, *base, *place, "--trainer.callbacks+", trouble])
    *_, reason, go_on = done.stderr.splitlines()
    assert done.returncode == 1
    assert re.fullmatch(r"hiso-pl: error \(rank 1\): IndexError: list index out of range \(its traceback .*\)", reason)
    assert done.stderr.count("list index out of range") == 1
    command = shlex.split(go_on.removeprefix("hiso-pl: go on with: "))
    assert command[-8:] == ["launch", "--nproc", "2", "fit", "--config", f"{root}/config.yaml", "--ckpt_path", "last"]

    # the same command, stopped once it has come further
    beat = of_class("meddling.Beat", path=str(tmp_path / "beat"), pause=0.3)
    only = ["--trainer.callbacks", f"[{beat}]"]
    with subprocess.Popen([*command, *only], env=environment(), stdout=-1, stderr=-1, text=True) as process:
        wait_for(tmp_path / "beat.0", process)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    *_, told = err.splitlines()
    assert process.returncode == 0, err
    found = re.search(STOPPED, told)
    assert shlex.split(f"{found[4]} {found[5]}") == command
    three = ["3" if word == "2" else word for word in command]  # another number of ranks goes on as well
    done = started([*three, "--trainer.callbacks", "null"])
    assert done.returncode == 0, done.stderr
    assert summary(root)["digest"] == summary(tmp_path / "whole")["digest"]
    assert summary(root)["ranks"] == 3


def started(command):
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=200, cwd=HERE)
