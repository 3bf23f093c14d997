"""A launch ends with the status and the reason of the rank that failed, said last; signals reach the ranks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hiso_pl.ranks import agent, environment, place

RANK = '''
"""Does what it is told, as a rank of the program might: LIST OF STEPS FOR EACH RANK AND ATTEMPT."""
import json, os, signal, sys, time
from pathlib import Path
from hiso_pl.ranks import place, reasons

rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
Path(f"{sys.argv[2]}.{rank}.{attempt}").write_text(str(os.getpid()))
steps = json.loads(sys.argv[1])
for step, *args in steps[min(attempt, len(steps) - 1)][rank]:
    if step == "reason":
        assert reasons.leave(*args)
    elif step == "end":
        os._exit(*args)
    elif step == "outlive":
        other = Path(f"{sys.argv[2]}.{args[0]}.{attempt}")
        while not other.exists() or not other.read_text() or (place.status(int(other.read_text())) or "Z")[0] != "Z":
            time.sleep(0.02)
    elif step == "kill":
        os.kill(os.getpid(), args[0])
    elif step == "well":
        signal.signal(args[0], lambda *_: sys.exit(0))
    elif step == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(f"{sys.argv[2]}.{rank}.{attempt}.{step}").touch()
    if step in ("wait", "well", "hang"):
        time.sleep(60)
'''
TOLD = ["reason", "the disk is full", 1, True, True, "hiso-pl fit --ckpt_path last"]
MISTAKE = ["reason", "lr=abc must be a number", 2, True, True, ""]
LOST = [
    "reason",
    "rank 1 (process 5 on here) did not come to the exchange of round 4: it has ended",
    1,
    False,
    True,
    "",
]
QUOTED = ["reason", "rank 0 has ended: the disk is full", 1, False, False, ""]
END = ["end", 1]
AFTER = ["outlive", 1]


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """A launch of such ranks: steps by attempt and rank."""
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    monkeypatch.setattr(agent, "PROGRAM", (str(script),))
    for name in ("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", environment.BY_TORCHRUN):
        monkeypatch.delenv(name, raising=False)

    def launch(*steps, restarts=0):
        command = [json.dumps(steps), str(tmp_path / "done")]
        return agent.Launch(command, len(steps[0]), "hiso-pl launch", run_id="test", max_restarts=restarts)

    return launch


@pytest.fixture
def said(launch, capfd):
    """The status of a launch, and what it said."""

    def said(*steps, **options):
        capfd.readouterr()
        status = agent.carry_out(launch(*steps, **options))
        return status, capfd.readouterr().err.splitlines()

    return said


def test_ranks_that_end_well_leave_nothing_to_say(said, tmp_path):
    assert said([[], []]) == (0, [])
    assert environment.BY_LAUNCH not in os.environ
    assert len(list(tmp_path.glob("done.*"))) == 2


@pytest.mark.parametrize(
    ("ranks", "status", "lines"),
    [
        # a reason, with how to go on, before what others say of it
        (
            [[AFTER, QUOTED, END], [TOLD, END]],
            1,
            ["hiso-pl: error (rank 1): the disk is full", "hiso-pl: go on with: hiso-pl fit --ckpt_path last"],
        ),
        ([[MISTAKE, ["end", 2]], [["wait"]]], 2, ["hiso-pl: error (rank 0): lr=abc must be a number"]),
        # one that could say nothing, before those who missed it
        (
            [[AFTER, LOST, END], [["kill", signal.SIGKILL]]],
            137,
            [r"hiso-pl: error \(rank 1\): .*SIGKILL, as .*memory runs out"],
        ),
        (
            [[AFTER, LOST, END], [["kill", signal.SIGSEGV]]],
            139,
            [r"hiso-pl: error \(rank 1\): its process \d+ .* SIGSEGV"],
        ),
        (
            [[["end", 7]], [["outlive", 0], LOST, END]],
            7,
            [r"hiso-pl: error \(rank 0\): .* ended with status 7 and .*"],
        ),
        # nobody of this machine has a reason of its own
        ([[QUOTED, END], [["wait"]]], 1, ["hiso-pl: ended, as ranks of another machine have: rank 0 has ended: .*"]),
    ],
)
def test_the_last_line_is_the_reason(said, ranks, status, lines):
    found, said_last = said(ranks)
    assert found == status
    assert len(said_last) == len(lines)
    for line, pattern in zip(said_last, lines, strict=True):
        assert re.fullmatch(pattern, line) or line == pattern, line


def test_ranks_are_started_again_and_the_reason_is_said_at_once(said, tmp_path):
    status, lines = said([[["wait"]], [TOLD, END]], [[], []], restarts=2)
    assert (status, lines) == (
        0,
        ["hiso-pl: error (rank 1): the disk is full", "hiso-pl: the ranks are started again (1 of 2)"],
    )
    assert sorted(path.name for path in tmp_path.glob("done.*.?")) == ["done.0.0", "done.0.1", "done.1.0", "done.1.1"]


def test_a_command_line_that_cannot_be_is_not_tried_again(said, tmp_path):
    status, lines = said([[MISTAKE, ["end", 2]]], restarts=3)
    assert (status, lines) == (2, ["hiso-pl: error (rank 0): lr=abc must be a number"])
    assert [path.name for path in tmp_path.glob("done.*.?")] == ["done.0.0"]


def later(path: Path, *numbers: int, process: int | None = None) -> threading.Thread:
    """Sends signals once a rank has come to a step."""

    def send():
        until = time.monotonic() + 30
        while not path.exists() and time.monotonic() < until:
            time.sleep(0.02)
        for number in numbers:
            os.kill(os.getpid() if process is None else process, number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize(("number", "handed_on"), [("SIGINT", "SIGINT"), ("SIGTERM", "SIGTERM"), ("SIGHUP", "SIGTERM")])
def test_a_signal_reaches_the_ranks_and_one_that_ends_them_well_is_no_failure(said, tmp_path, number, handed_on):
    step = ["well", getattr(signal, handed_on)]
    thread = later(tmp_path / "done.0.0.well", getattr(signal, number), getattr(signal, number))  # as `timeout` does
    status, lines = said([[["well", step[1]]]], restarts=1)
    thread.join()
    assert (status, lines) == (0, [f"hiso-pl: {number}: the ranks end after their round; once more kills them"])
    assert not (tmp_path / "done.0.1").exists()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


def test_ranks_that_a_signal_ends_before_a_round_are_not_started_again(said, tmp_path):
    thread = later(tmp_path / "done.0.0.wait", signal.SIGTERM)
    status, lines = said([[["wait"]]], restarts=1)
    thread.join()
    assert (status, lines[1:]) == (143, ["hiso-pl: error: terminated before a round was done"])
    assert not (tmp_path / "done.0.1").exists()


def test_another_signal_kills_and_nothing_remains(launch, tmp_path):
    made = launch([[["hang"]]])
    code = (
        "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from hiso_pl.ranks import agent, early_signals\n"
        f"agent.PROGRAM, early_signals.AGAIN_S = {agent.PROGRAM!r}, 0.2\n"
        f"sys.exit(agent.carry_out(agent.Launch({list(made.command)!r}, 1, 'hiso-pl launch', run_id='test')))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        later(tmp_path / "done.0.0.hang", signal.SIGHUP, process=process.pid).join()  # ignored, as nohup has it
        process.send_signal(signal.SIGTERM)
        assert "SIGTERM: the ranks end after their round" in process.stderr.readline()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.stderr.read() == "hiso-pl: error: the ranks were killed, as SIGTERM came again\n"
    assert process.returncode == 143
    rank, until = int((tmp_path / "done.0.0").read_text()), time.monotonic() + 10
    while place.status(rank) is not None and place.status(rank)[0] != "Z":
        assert time.monotonic() < until
        time.sleep(0.05)
