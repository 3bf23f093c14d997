"""Roll calls between ranks that are threads with a store, and processes that are asleep, stopped or dead."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
import torch.distributed as dist

from hiso_pl.ranks import patience, place, roll_call
from hiso_pl.ranks.roll_call import RollCall, meeting

from .conftest import on_each

LOST = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:2211")
LATE = RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 5000ms for recv operation to complete")


@pytest.fixture
def store() -> dist.TCPStore:  # type: ignore[name-defined]
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(patience, "LATE_S", 0.3)
    monkeypatch.setattr(patience, "LOST_S", 0.6)
    yield
    roll_call.close_roll_call()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"], stdout=-1)
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def meet(roll: RollCall, error: Exception) -> None:
    with roll.meeting("to the exchange of round {next}"):
        raise error


def absent(store: dist.Store, process: subprocess.Popen[bytes], **other: str) -> int:  # type: ignore[name-defined]
    """Lets a process be that of rank 2."""
    state = place.status(process.pid)
    store.set("place/2", json.dumps(place.own_place() | {"pid": process.pid, "started": state[1]} | other))
    return process.pid


def test_ranks_that_came_name_the_one_that_hangs_in_the_same_words(store, sleeper):
    rolls = [RollCall(store, rank, 3, 5.0) for rank in range(2)]
    for roll in rolls:
        roll.rounds_done = lambda: 16
    pid = absent(store, sleeper, host="far")
    said = on_each(lambda: meet(rolls[0], LATE), lambda: meet(rolls[1], LOST))
    line = f"rank 2 (process {pid} on far) did not come to the exchange of round 17 within timeout_s=5:"
    assert said == [f"{line} it hangs or takes longer"] * 2


def test_a_rank_that_has_ended_is_named_at_once_and_one_that_only_comes_later_is_not(store, sleeper):
    roll = RollCall(store, 0, 3, 60.0)  # rank 1 has not come yet
    pid = absent(store, sleeper, host="here")
    store.set("place/1", json.dumps(place.own_place()))
    sleeper.kill()
    sleeper.wait()
    began = time.monotonic()
    assert on_each(lambda: meet(roll, LOST)) == [
        f"rank 2 (process {pid} on here) did not come to the exchange of round 1: it has ended"
    ]
    assert time.monotonic() - began < patience.LOST_S


def test_a_lost_rank_of_another_machine_is_told_from_one_that_is_alive_here(store, sleeper):
    roll = RollCall(store, 0, 3, 60.0)
    pid = absent(store, sleeper, host="far", machine="another")
    store.set("place/1", json.dumps(place.own_place()))
    assert on_each(lambda: meet(roll, LOST)) == [
        f"rank 2 (process {pid} on far) did not come to the exchange of round 1: it hangs or has ended"
    ]


def test_a_stopped_process_is_told_and_goes_on_so_that_it_can_end(store, sleeper):
    rolls = [RollCall(store, rank, 3, 5.0) for rank in range(2)]
    absent(store, sleeper)
    sleeper.send_signal(signal.SIGSTOP)
    while psutil.Process(sleeper.pid).status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)
    said = on_each(lambda: meet(rolls[0], LATE), lambda: meet(rolls[1], LATE))
    assert all(line.endswith("within timeout_s=5: it is stopped by a signal") for line in said)
    assert psutil.Process(sleeper.pid).status() != psutil.STATUS_STOPPED


def test_a_rank_that_said_why_it_ends_is_quoted(store):
    rolls = [RollCall(store, rank, 2, 5.0) for rank in range(2)]
    rolls[1].farewell("rank 1 has ended: out of paper")
    assert on_each(lambda: meet(rolls[0], LOST)) == ["rank 1 has ended: out of paper"]


def test_all_came_and_the_network_failed(store):
    rolls = [RollCall(store, rank, 2, 5.0) for rank in range(2)]
    said = on_each(lambda: meet(rolls[0], LOST), lambda: meet(rolls[1], LOST))
    assert said[0] == said[1]
    assert said[0].startswith("all 2 ranks came to the exchange of round 1, and yet they lost one another")


def test_other_errors_stay_as_they_are(store):
    roll = RollCall(store, 0, 2, 5.0)
    for error in (ValueError("the connection of ideas"), RuntimeError("CUDA error: no peer access, it timed out")):
        with pytest.raises(type(error)) as raised:
            meet(roll, error)
        assert raised.value is error
    with pytest.raises(RuntimeError, match="closed by peer"), meeting("to a group of somebody else's"):
        raise LOST


def test_a_collective_that_was_not_wrapped_is_explained(store):
    roll = RollCall(store, 0, 2, 5.0)
    roll.rounds_done = lambda: 3
    error = RuntimeError(*LATE.args)
    roll.explain(error)
    assert str(error).startswith("rank 1 (never seen) did not come to a collective after round 3 within timeout_s=5")


def test_a_store_that_does_not_answer_is_not_waited_for(store, monkeypatch):
    assert patience.within(0.1, lambda: time.sleep(2.0) or 1, 2) == 2
    roll = RollCall(store, 0, 2, 5.0)
    monkeypatch.setattr(patience, "STORE_S", 0.1)
    monkeypatch.setattr(store.__class__, "check", lambda *_: time.sleep(5.0))
    assert on_each(lambda: meet(roll, LATE)) == [
        "the launch's store was lost on the way to the exchange of round 1: the process or machine that keeps it has"
        " ended"
    ]


WATCHED = """
import pathlib, sys, time
import torch.distributed as dist
from hiso_pl.ranks.roll_call import RollCall
store = dist.TCPStore("127.0.0.1", int(sys.argv[1]), is_master=False, wait_for_workers=False)
roll = RollCall(store, 1, 2, 0.5)
roll.watch.stacks = pathlib.Path(sys.argv[2])
with roll.connecting():
    pass
print("ready", flush=True)
time.sleep(60)
"""


def test_a_rank_that_hangs_ends_when_it_is_given_up_and_not_before(store, tmp_path):
    stacks = tmp_path / "traceback.rank-1.txt"
    command = [sys.executable, "-c", WATCHED, str(store.port), str(stacks)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1.5)  # away for long, but nobody has given it up
            store.set("verdict", "rank 1 did not come")
            assert process.wait(5) == 1
        finally:
            process.kill()
    assert 'File "<string>", line 11 in <module>' in stacks.read_text()  # where it hangs
