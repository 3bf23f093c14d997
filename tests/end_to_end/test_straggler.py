"""A rank that hangs, is stopped, dies or runs out of memory is named, and the launch ends in a bounded time."""

from __future__ import annotations

import json
import re
import time

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TIMEOUT_S = 8.0
SLACK_S = 25.0  # to find out who is missing, to end the processes and torchrun, on a busy machine
PROCESS = r"\(process (\d+) on [^)]+\)"
LATE = rf"rank 2 {PROCESS} did not come to %s within timeout_s=8: %s"
KINDS = {
    "hang": LATE % ("the exchange of round 5", "it hangs or takes longer"),
    "hang in validation": LATE % (r".+ after round 5", "it hangs or takes longer"),
    "stop": LATE % ("the exchange of round 5", "it is stopped by a signal"),
    "kill": rf"rank 2 {PROCESS} did not come to the exchange of round 5: it has ended",
    "memory of the GPU": r"CUDA out of memory\. Tried to allocate 2\.00 GiB\.",
    "bug": r"IndexError: list index out of range \(its traceback is in .*traceback\.rank-2\.txt\)",
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_line_names_the_rank_and_all_end(start, base, tmp_path, monkeypatch, kind):
    # as the scripts of launch/ have it: torchrun alone would wait that long for a rank that hangs
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "300")
    told = tmp_path / "told"
    init_args = {"path": str(told), "rank": 2, "round": 5, "kind": kind}
    trouble = json.dumps({"class_path": "trouble.InForward", "init_args": init_args})
    options = ("--trainer.strategy.init_args.timeout_s", str(TIMEOUT_S), "--trainer.val_check_interval", "5")
    launch = start(3, [*base, *options, "--trainer.callbacks+", trouble], tmp_path / "run")
    assert launch.wait() != 0
    process, began = told.read_text().split()
    assert time.time() - float(began) < TIMEOUT_S + SLACK_S, launch.out[-3000:]
    assert len(launch.errors) == 1, launch.out[-3000:]
    who = "2" if kind in ("memory of the GPU", "bug") else "[01]"
    found = re.fullmatch(rf"hiso-pl: error \(rank {who}\): {KINDS[kind]}", launch.errors[0])
    assert found, launch.errors
    assert found.groups() in ((), (process,))
    assert not (tmp_path / "run" / "summary.json").exists()
    if kind.startswith("hang"):
        assert "in _trouble" in (tmp_path / "run" / "traceback.rank-2.txt").read_text()
