"""SIGKILL at random instants: each time the run goes on, and in the end nothing of it shows."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time

import psutil
import pytest

from hiso_pl.cli.replay import run as run_replay
from hiso_pl.ledger import LedgerReader
from hiso_pl.run.checkpoint import newest
from hiso_pl.run.folder import LEDGER

from .conftest import of_class

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200), pytest.mark.usefixtures("process_settings")]

KILLS = int(os.environ.get("HISO_PL_KILLS", "2"))
ROUNDS = 60 * max(KILLS, 2)
RUN = [
    *("--trainer.max_steps", str(ROUNDS), "--trainer.val_check_interval", "50", "--trainer.logger", "false"),
    *("--checkpoint.every_n_train_steps", "7", "--checkpoint.save_top_k", "2", "--checkpoint.monitor", "step"),
    *("--checkpoint.mode", "max", "--model.method.init_args.num_directions", "1"),
]


@pytest.fixture(scope="module")
def straight(run_jobs, base):
    return run_jobs(1, [("straight", [*base, *RUN])])["straight"]


def rounds(root):
    """Rounds in the ledger, without the closing frame's and whatever is torn."""
    path = root / LEDGER
    return LedgerReader(path).rounds if path.exists() else 0


def died(launch, timeout=240.0):
    """Waits until the launch has ended, or has begun anew with other processes."""
    until = time.monotonic() + timeout
    while launch.process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    return launch.process.poll()


def wait(launch, root, beyond):
    until = time.monotonic() + 240.0
    while launch.process.poll() is None and rounds(root) <= beyond:
        assert time.monotonic() < until, launch.out[-3000:]
        time.sleep(0.02)


def kill(process):
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def test_kills_at_random_instants_do_not_show_in_the_result(start, straight, base, tmp_path):
    root = tmp_path / "run"
    seed = random.SystemRandom().randrange(10**6)
    rng = random.Random(seed)
    print(f"seed of the instants: {seed}")
    slow = ["--trainer.callbacks+", of_class("meddling.Beat", path=str(tmp_path / "beat"), pause=0.01)]
    left = KILLS
    while left:
        ranks = rng.choice([1, 2, 2, 3])
        how = ("a round", "a checkpoint")[left % 2]
        done = rounds(root)
        target = done + rng.randrange(1, max(2, (ROUNDS - done) // (left + 1)))
        where = [*slow]
        if how == "a checkpoint":
            # rank 0 writes it, and dies with half of it on the disk; another one dies while rank 0 writes
            where += ["--trainer.callbacks+", of_class("meddling.Killed", rank=rng.randrange(ranks), round=target)]
        resume = ["--ckpt_path", rng.choice(["last", "ledger"])] if (root / LEDGER).exists() else []
        launch = start(ranks, [*base, *RUN, *where, *resume], root)
        if how == "a round":
            wait(launch, root, target)
            time.sleep(rng.uniform(0.0, 0.1))
            victims = launch.ranks if ranks > 1 else [psutil.Process(launch.process.pid)]
            if launch.process.poll() is None and victims:
                kill(rng.choice(victims))
        status = died(launch)
        left -= 1
        print(f"kill {KILLS - left}: {ranks} ranks, in {how}, {resume} -> status {status}, round {rounds(root)}")
        assert status not in (None, 0), launch.out[-3000:]
        assert "hiso-pl: error: " not in launch.out or "lost" in launch.out, launch.out[-3000:]
        assert rounds(root) >= done
        intact(root, straight)
    last = start(2, [*base, *RUN, "--ckpt_path", "last"], root)
    assert last.wait() == 0, last.out[-3000:]
    same(root, straight)


def intact(root, straight):
    """What a kill has left is of the run without kills: all whole records, and the state in the newest checkpoint."""
    path = root / LEDGER
    if not path.exists():
        return
    before, _ = LedgerReader(path).around(rounds(root))
    with path.open("rb") as left, (straight.root / LEDGER).open("rb") as whole:
        assert left.read(before.end) == whole.read(before.end)
    found = newest(root)
    if found is not None:
        run_replay([str(straight.root / LEDGER), "--checkpoint", str(found[0]), "--verify", "--threads", "1"])


def same(root, straight):
    summary = json.loads((root / "summary.json").read_text())
    assert (summary["digest"], summary["rounds"]) == (straight.summary["digest"], ROUNDS)
    assert (root / LEDGER).read_bytes() == (straight.root / LEDGER).read_bytes()


def test_short_runs_killed_once_each_end_alike(start, base, tmp_path):
    """A kill at any instant, from the first import to the last write; the same command goes on, or begins."""
    short = [*base, "--trainer.max_steps", "20", "--trainer.val_check_interval", "6", "--trainer.logger", "false"]
    short += ["--checkpoint.every_n_train_steps", "4", "--ckpt_path", "auto"]
    short += ["--trainer.callbacks+", of_class("meddling.Beat", path=str(tmp_path / "beat"), pause=0.05)]
    began = time.monotonic()
    whole = start(1, short, tmp_path / "whole")
    assert whole.wait() == 0, whole.out[-3000:]
    length, rng = time.monotonic() - began, random.Random(KILLS)
    expected = json.loads((tmp_path / "whole" / "summary.json").read_text())["digest"]
    digests, reached = [], []
    for number in range(KILLS):
        root = tmp_path / f"run-{number}"
        launch = start(1, short, root)
        if number % 4:
            wait(launch, root, rng.randrange(20))
            time.sleep(rng.uniform(0.0, 0.1))
        else:
            time.sleep(length * rng.random())
        launch.process.kill()
        launch.process.wait()
        reached.append(rounds(root))
        again = start(1, short, root)
        assert again.wait() == 0, again.out[-3000:]
        digests.append(json.loads((root / "summary.json").read_text())["digest"])
        assert not [*root.glob("*.part"), *root.glob("checkpoints/*.part")]
        assert {path.name for path in (root / "checkpoints").iterdir()} == {"last.ckpt", "step=20.ckpt"}
        if number:
            shutil.rmtree(root)
    print(f"killed after rounds {sorted(reached)}")
    assert digests == [expected] * KILLS


def test_torchrun_goes_on_by_itself_after_each_kill(start, straight, base, tmp_path):
    root = tmp_path / "run"
    slow = ["--trainer.callbacks+", of_class("meddling.Beat", path=str(tmp_path / "beat"), pause=0.01)]
    launch = start(2, [*base, *RUN, *slow], root, torchrun_options=("--max-restarts=2",))
    for target in (25, 60):
        wait(launch, root, target)
        kill(random.choice(launch.ranks))
        before = {process.pid for process in launch.ranks}
        until = time.monotonic() + 60.0
        while before & {process.pid for process in launch.ranks} and time.monotonic() < until:
            time.sleep(0.05)
    assert launch.wait() == 0, launch.out[-3000:]
    assert launch.out.count("Restarted by torchrun: going on from") == 2
    same(root, straight)


def test_a_kill_in_the_middle_of_an_update_and_no_checkpoint(start, straight, base, tmp_path):
    """A rank dies with half of x moved; no checkpoint is kept, so the ledger alone leads on."""
    root = tmp_path / "run"
    none = ["--checkpoint.every_n_train_steps", "1000"]
    callback = of_class("meddling.Killed", rank=1, round=20, during="update")
    launch = start(2, [*base, *RUN, *none, "--trainer.callbacks+", callback], root)
    assert launch.wait() not in (0, -signal.SIGTERM)
    assert rounds(root) in (19, 20)
    assert not list(root.rglob("*.ckpt"))
    last = start(3, [*base, *RUN, *none, "--ckpt_path", "last"], root)
    assert last.wait() == 0, last.out[-3000:]
    assert "going on from the ledger, as nothing was saved" in last.out
    same(root, straight)
