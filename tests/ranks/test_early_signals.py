"""A signal ends the program at once, with a line, from its first instants on; also a second one right behind it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SLEEPER = """
import sys, time
from hiso_pl.ranks import early_signals
early_signals.end_at_once()
{more}
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("left in order", flush=True)
"""


@pytest.fixture
def struck():
    """What becomes of a process that signals come to: its status, and what it says."""

    def struck(numbers, more="", **variables):
        clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")} | variables
        command = [sys.executable, "-c", SLEEPER.format(more=more)]
        with subprocess.Popen(command, env=clean, stdout=-1, stderr=-1, text=True, preexec_fn=listen) as process:
            assert process.stdout.readline() == "ready\n"
            for number in numbers:
                process.send_signal(number)
            out, err = process.communicate(timeout=20)
        return process.returncode, out, err

    return struck


def listen():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored


INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
BASE = Path(__file__).parents[1] / "end_to_end" / "base.yaml"


@pytest.mark.parametrize(
    ("numbers", "variables", "status", "said"),
    [
        ([INT], {}, 130, "hiso-pl: error: interrupted\n"),
        ([TERM], {}, 143, "hiso-pl: error: terminated\n"),
        ([HUP], {}, 129, "hiso-pl: error: terminated, as its terminal has gone\n"),
        ([INT, INT, TERM], {}, 130, "hiso-pl: error: interrupted\n"),
        ([INT], {"RANK": "0", "WORLD_SIZE": "2"}, 130, "hiso-pl: error (rank 0): interrupted\n"),
        ([INT], {"RANK": "1", "WORLD_SIZE": "2"}, 130, ""),
        ([INT], {"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, 130, ""),
        ([TERM], {"RANK": "0", "WORLD_SIZE": "2"}, 143, ""),  # torchrun's, which says why
        ([INT], {"RANK": "0", "WORLD_SIZE": "2", "HISO_PL_REASONS": "/x"}, 130, ""),  # its launcher says it
        ([INT], {"RANK": "abc"}, 130, "hiso-pl: error: interrupted\n"),
    ],
)
def test_a_signal_is_one_line_of_the_launch(struck, numbers, variables, status, said):
    assert struck(numbers, **variables) == (status, "", said)


def test_what_is_under_way_later_is_left_in_order(struck):
    assert struck([INT], "early_signals.over()") == (0, "left in order\n", "")
    assert struck([TERM], "early_signals.over()") == (-signal.SIGTERM, "", "")


def test_a_signal_that_is_ignored_stays_so(struck):
    more = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); early_signals.end_at_once()"
    assert struck([INT, TERM], more) == (143, "", "hiso-pl: error: terminated\n")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.0, 4.0])
def test_the_program_is_ended_by_one_line_at_any_time(tmp_path, seconds):
    args = ["fit", "--config", str(BASE), "--trainer.default_root_dir", str(tmp_path / "run")]
    command = [sys.executable, "-m", "hiso_pl", *args]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, preexec_fn=listen) as process:
        time.sleep(seconds)
        process.send_signal(INT)
        _, err = process.communicate(timeout=60)
    if (tmp_path / "run" / "config.yaml").exists():
        return  # rounds were under way: it stops after one
    assert (process.returncode, err) == (130, "hiso-pl: error: interrupted\n")
