"""Signals and deaths: a run is stopped at any instant and resumed, and ends as if it had not been."""

from __future__ import annotations

import json
import random
import signal
import time

import psutil
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hiso_pl.run.checkpoint import newest
from hiso_pl.run.lock import LOCK

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SAME = ("digest", "metrics", "rounds")


@pytest.fixture
def beat(tmp_path):
    """The options that make each rank tell its process and its round, and where it does."""
    path = tmp_path / "beat"
    callback = {"class_path": "meddling.Beat", "init_args": {"path": str(path), "pause": 0.02}}
    return ["--trainer.callbacks+", json.dumps(callback)], path


def told(path, rank=0):
    """Process id and round of a rank, as it last told them."""
    try:
        pid, done = path.with_name(f"{path.name}.{rank}").read_text().split()
    except FileNotFoundError:
        return 0, 0
    return int(pid), int(done)


def wait_for_round(launch, path, beyond, timeout=240.0):
    """Waits until the launch itself has done rounds beyond a number, or has ended."""
    until = time.monotonic() + timeout
    while told(path)[1] <= beyond and launch.process.poll() is None:
        assert time.monotonic() < until, launch.out[-3000:]
        time.sleep(0.02)


def rounds_of(checkpoint):
    return 0 if checkpoint is None else torch.load(checkpoint, weights_only=True, mmap=True)["global_step"]


def send(process, number):
    try:
        process.send_signal(number)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return


def strike(launch, target, number, rng):
    """Sends a signal to torchrun's agent, to all ranks or to one of them."""
    if target == "agent" or not launch.ranks:
        launch.process.send_signal(number)
    elif target == "all":
        for process in launch.ranks:
            send(process, number)
    else:
        send(rng.choice(launch.ranks), number)


def same_as(straight, root):
    summary = json.loads((root / "summary.json").read_text())
    assert {key: summary[key] for key in SAME} == {key: straight[key] for key in SAME}
    assert summary["comm"]["paper_kb"] == straight["comm"]["paper_kb"]
    assert summary["comm"]["protocol_kb"] == straight["comm"]["protocol_kb"]
    assert summary["interrupted"] is False


@pytest.mark.timeout(3600)
def test_interrupts_at_random_instants_do_not_show_in_the_result(
    start, matrix, base, long_run, interrupts, beat, tmp_path
):
    straight = matrix(1)["straight"].summary
    options, path = beat
    root = tmp_path / "run"
    seed = random.SystemRandom().randrange(10**6)
    rng = random.Random(seed)
    print(f"seed of the instants: {seed}")
    left, done, startup, story = interrupts, 0, 10.0, []
    while True:
        ranks = rng.choice([1, 2, 2, 3])
        resume = [] if newest(root) is None else ["--ckpt_path", "last"]
        if not resume:
            left_there = {path.name for path in root.iterdir()} if root.exists() else set()
            assert left_there <= {LOCK}, "a stop before the first round left something"
        began = time.monotonic()
        launch = start(ranks, [*base, *long_run, *options, *resume], root, forks=False)  # struck while it starts, too
        struck = None
        if left:
            early = rng.random() < 0.2
            if early:
                instant = rng.uniform(0.0, 1.2 * startup)
                time.sleep(instant)
            else:
                wait_for_round(launch, path, beyond=done)
                startup = time.monotonic() - began
                share = (straight["rounds"] - done) // (left + 1)
                wait_for_round(launch, path, beyond=done + rng.randrange(share))
                instant = rng.uniform(0.0, 0.2)
                time.sleep(instant)
            if launch.process.poll() is None:
                target = rng.choice(["agent", "all", "one"])
                number = rng.choice([signal.SIGINT, signal.SIGTERM])
                struck = (ranks, "from the start" if early else "in rounds", round(instant, 2), target, number.name)
                left -= 1
                strike(launch, target, number, rng)
        status = launch.wait()
        summary = json.loads((root / "summary.json").read_text()) if (root / "summary.json").exists() else None
        reached = 0 if newest(root) is None else rounds_of(newest(root)[0])
        story.append((struck, status, reached))
        print(f"interrupt {interrupts - left}: {struck} -> exit status {status}, round {reached}")
        if struck is None:
            assert status == 0, launch.out[-3000:]
            assert launch.errors == []
            break
        assert reached >= done, story
        if not early and reached < straight["rounds"]:
            # rounds were under way: the stop is a clean one, and whatever torchrun makes of it, the ranks made none
            assert summary["interrupted"] is True, story
            assert summary["rounds"] == reached, story
            assert launch.errors == [], launch.out[-3000:]
            if target != "agent":
                assert status == 0, launch.out[-3000:]
        assert not list(root.rglob("*.part")), story
        done = reached
    same_as(straight, root)
    # every round's point is there once, whatever part of the run drew it
    board = EventAccumulator(str(root), size_guidance={"scalars": 0})
    board.Reload()
    assert [event.step for event in board.Scalars("train/loss")] == list(range(1, straight["rounds"] + 1))


def test_a_rank_that_is_killed_ends_the_launch_and_a_checkpoint_goes_on(start, matrix, base, long_run, beat, tmp_path):
    straight = matrix(1)["straight"].summary
    options, path = beat
    root = tmp_path / "run"
    launch = start(3, [*base, *long_run, *options], root)
    wait_for_round(launch, path, beyond=85)
    killed = time.monotonic()
    psutil.Process(told(path, rank=1)[0]).kill()
    assert launch.wait(60.0) != 0
    assert time.monotonic() - killed < 60.0
    assert not (root / "summary.json").exists()
    checkpoint = newest(root)[0]
    assert rounds_of(checkpoint) >= 80
    assert checkpoint.name != "last.ckpt"
    resumed = start(2, [*base, *long_run, "--ckpt_path", "last"], root)
    assert resumed.wait() == 0, resumed.out[-3000:]
    same_as(straight, root)


def test_torchrun_restarts_a_run_where_its_last_checkpoint_is(start, matrix, base, long_run, beat, tmp_path):
    straight = matrix(1)["straight"].summary
    options, path = beat
    root = tmp_path / "run"
    launch = start(2, [*base, *long_run, *options], root, torchrun_options=("--max-restarts=1",))
    wait_for_round(launch, path, beyond=85)
    psutil.Process(told(path, rank=1)[0]).kill()
    assert launch.wait() == 0, launch.out[-3000:]
    assert "going on from" in launch.out
    same_as(straight, root)


def test_torchrun_restarts_a_run_that_had_saved_nothing(start, matrix, base, long_run, beat, tmp_path):
    straight = matrix(1)["straight"].summary
    options, path = beat
    root = tmp_path / "run"
    launch = start(2, [*base, *long_run, *options], root, torchrun_options=("--max-restarts=1",))
    wait_for_round(launch, path, beyond=3)
    psutil.Process(told(path, rank=1)[0]).kill()
    assert launch.wait() == 0, launch.out[-3000:]
    assert "as nothing was saved" in launch.out
    same_as(straight, root)


def test_a_restart_does_not_take_over_a_run_of_another_launch(start, base, tmp_path):
    root = tmp_path / "run"
    (root / "checkpoints").mkdir(parents=True)
    (root / "config.yaml").write_text("of: another run")
    (root / "summary.json").write_text("{}")
    launch = start(2, base, root, torchrun_options=("--max-restarts=1",))
    assert launch.wait() != 0
    assert "already holds a run" in launch.out
    assert "going on from" not in launch.out
    assert (root / "summary.json").read_text() == "{}"
