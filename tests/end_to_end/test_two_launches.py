"""Two launches on one folder: one run, and one refusal that names the process that has it."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import time

import psutil
import pytest

from hiso_pl.ledger import LedgerReader
from hiso_pl.run.folder import LEDGER
from hiso_pl.run.lock import LOCK

from .conftest import of_class

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RUN = [
    *("--trainer.max_steps", "60", "--trainer.val_check_interval", "50", "--trainer.logger", "false"),
    *("--checkpoint.every_n_train_steps", "7", "--model.method.init_args.num_directions", "1"),
]


@pytest.fixture(scope="module")
def straight(run_jobs, base):
    return run_jobs(1, [("straight", [*base, *RUN])])["straight"]


@pytest.fixture
def slowly(tmp_path):
    """Arguments of a run that waits after each round, until it is let go on."""
    return ["--trainer.callbacks+", of_class("meddling.Waiting", path=str(tmp_path / "go"), round=12)]


def rounds(root):
    path = root / LEDGER
    return LedgerReader(path).rounds if path.exists() else 0


def until(what, launch):
    end = time.monotonic() + 240.0
    while not what():
        assert time.monotonic() < end, launch.out[-3000:]
        time.sleep(0.05)


def contents(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def same(root, straight):
    summary = json.loads((root / "summary.json").read_text())
    assert (summary["digest"], summary["rounds"]) == (straight.summary["digest"], 60)
    assert (root / LEDGER).read_bytes() == (straight.root / LEDGER).read_bytes()
    assert not (root / LOCK).exists()


@pytest.mark.parametrize(("ranks", "ways"), [(1, [["--ckpt_path", "last"], []]), (2, [["--ckpt_path", "ledger"]])])
def test_a_launch_beside_a_live_run_is_refused_and_changes_nothing(
    start, launch, here, straight, base, tmp_path, slowly, ranks, ways
):
    root = tmp_path / "run"
    live = start(ranks, [*base, *RUN, *slowly], root)
    until(lambda: rounds(root) == 12, live)
    before = contents(root)
    mine = [process.pid for process in (live.ranks if ranks > 1 else [psutil.Process(live.process.pid)])]
    for how in ways:
        args = [*base, *RUN, *how]
        status, said, _ = launch(ranks, args, root) if ranks > 1 else here(args, root)
        assert contents(root) == before
        assert status == 1
        lines = [line for line in said.splitlines() if "hiso-pl: error" in line]
        assert len(lines) == 1, said
        assert (
            pid := re.search(r"is in use by process (\d+) on \S+ since 20\S+ \(hiso-pl fit --config .*\)", lines[0])
        )
        assert pid is not None, said
        assert int(pid[1]) in mine
    (tmp_path / "go").touch()
    assert live.wait() == 0, live.out[-3000:]
    same(root, straight)


def test_of_two_that_begin_at_the_same_moment_one_runs(start, straight, base, tmp_path):
    both = [start(1, [*base, *RUN], tmp_path / "runs" / "run") for _ in range(2)]
    statuses = sorted(one.wait() for one in both)
    # the second may come when all is done
    refusals = [line for one in both for line in one.errors]
    assert statuses == [0, 1], refusals
    assert len(refusals) == 1
    assert "is in use by process" in refusals[0] or "already holds a run" in refusals[0]
    same(tmp_path / "runs" / "run", straight)


def test_ranks_that_outlive_a_killed_torchrun_keep_their_folder_and_end(start, here, straight, base, tmp_path, slowly):
    root = tmp_path / "run"
    live = start(2, [*base, *RUN, *slowly], root, forks=False)
    until(lambda: rounds(root) == 12, live)
    orphans = live.ranks
    os.kill(live.process.pid, signal.SIGKILL)
    live.wait()
    status, said, _ = here([*base, *RUN, "--ckpt_path", "last"], root)
    assert status == 1
    assert any(f"in use by process {orphan.pid} " in said for orphan in orphans), said
    (tmp_path / "go").touch()
    assert not psutil.wait_procs(orphans, 120)[1], live.out[-3000:]
    assert json.loads((root / "summary.json").read_text())["interrupted"] is True
    assert rounds(root) == 13
    assert live.errors == [], live.out[-3000:]
    status, said, _ = here([*base, *RUN, "--ckpt_path", "last"], root)
    assert status == 0, said[-3000:]
    same(root, straight)


def test_all_ranks_stop_when_somebody_else_writes_into_the_ledger(start, base, tmp_path, slowly):
    """As a process of a machine whose file system knows no locks."""
    root = tmp_path / "run"
    live = start(2, [*base, *RUN, *slowly], root)
    until(lambda: rounds(root) == 12, live)
    with (root / LEDGER).open("ab") as file:
        file.write(struct.pack("<I", 7))
    left = (root / LEDGER).read_bytes()
    (tmp_path / "go").touch()
    assert live.wait() != 0
    assert len(live.errors) == 1, live.out[-3000:]
    assert "was changed by another process (it has" in live.errors[0]
    assert (root / LEDGER).read_bytes() == left
