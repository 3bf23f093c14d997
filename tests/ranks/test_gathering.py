"""Ranks that are threads meet in a store: all come and were given the same, or all are told who and what is not."""

from __future__ import annotations

import logging
import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from hiso_pl.ranks import patience
from hiso_pl.ranks.gathering import differing, gather, leave

from .conftest import on_each

TIMEOUT = timedelta(seconds=0.1)


@pytest.fixture
def store() -> dist.TCPStore:  # type: ignore[name-defined]
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "START_S", 0.6)
    monkeypatch.setattr(patience, "LATE_S", 0.5)


def meeting(store, given, world=None, ranks=None):
    """What becomes of ranks that were given things."""
    ranks = range(len(given)) if ranks is None else ranks
    world = len(given) if world is None else world
    pairs = zip(ranks, given, strict=True)
    return on_each(*[lambda r=r, g=g: gather(store, r, world, TIMEOUT, g) for r, g in pairs])


def test_attempts_of_a_launch_share_a_store_and_nothing_in_it(store):
    store.set("hiso_pl/start/asks/1", "an attempt that came to nothing")
    first, second = meeting(store, [{}] * 3), meeting(store, [{}] * 3)
    first[0].set("key", "first")
    second[1].set("key", "second")
    assert [group.get("key") for group in first] == [b"first"] * 3
    assert [group.get("key") for group in second] == [b"second"] * 3


def test_all_who_have_come_hear_who_has_not(store):
    said = meeting(store, [{}, {}], world=4, ranks=(0, 2))
    assert said == ["ranks 1, 3 did not come to the start within 0.6 s"] * 2
    assert meeting(store, [{}], world=4, ranks=(2,)) == ["rank 0 did not come to the start within 0.6 s"]


def test_of_two_commands_no_option_is_told(store):
    given = [{"command": "fit", "trainer.max_steps": "3"}, {"command": "validate", "trainer.max_steps": "4"}] * 2
    line = "the ranks were not started alike: command (fit on rank 0,2, validate on rank 1,3)"
    assert meeting(store, given) == [line] * 4


def test_all_ranks_are_told_the_first_keys_and_the_values(store):
    given = [{f"key{i}": f"{i if rank == 2 else 'x' * 99}" for i in range(5)} | {"same": "1"} for rank in range(3)]
    given[0]["only"] = "here"
    said = meeting(store, given)
    assert (
        said
        == [
            "the ranks were not started alike: "
            + "; ".join(f"key{i} ({'x' * 60} on rank 0,1, {i} on rank 2)" for i in range(3))
            + "; and 3 more"
        ]
        * 3
    )
    assert differing(given)[-1] == "only (here on rank 0, absent on rank 1,2)"


def test_where_they_go_on_from_comes_with_advice(store):
    said = meeting(store, [{"start": "round 6"}, {"start": "the start"}])
    assert said[0] == said[1]
    assert str(said[0]).endswith(
        "start (round 6 on rank 0, the start on rank 1): "
        "trainer.default_root_dir must be a folder that all machines share, or hold the same on each of them"
    )


@pytest.mark.parametrize("gone", [0, 1])
def test_a_rank_that_ended_before_it_came_is_quoted(store, monkeypatch, gone):
    monkeypatch.setattr(patience, "START_S", 60.0)
    monkeypatch.setattr(patience, "STALE_S", 0.3)
    leave(store, gone, f"rank {gone} has ended: no such file")
    ranks = [rank for rank in range(3) if rank != gone]
    began = time.monotonic()
    said = meeting(store, [{}, {}], world=3, ranks=ranks)
    assert said == [f"rank {gone} has ended: no such file"] * 2
    assert time.monotonic() - began < 10.0


def test_what_an_earlier_attempt_ended_with_is_taken_back(store, monkeypatch):
    monkeypatch.setattr(patience, "START_S", 60.0)
    monkeypatch.setattr(patience, "STALE_S", 5.0)
    leave(store, 1, "rank 1 has ended: in the attempt before")

    def late() -> object:
        time.sleep(0.3)
        return gather(store, 1, 2, TIMEOUT)

    found = on_each(lambda: gather(store, 0, 2, TIMEOUT), late)
    assert all(isinstance(group, dist.Store) for group in found)  # type: ignore[attr-defined]


def test_it_is_said_once_who_is_waited_for(store, monkeypatch, caplog):
    monkeypatch.setattr(patience, "SAY_S", 0.1)
    with caplog.at_level(logging.INFO):
        meeting(store, [{}, {}], world=4, ranks=(0, 2))
        assert [(r.levelname, r.message) for r in caplog.records] == [
            ("WARNING", "Waiting for ranks 1, 3 to start, for 0.6 s at most.")
        ]
        caplog.clear()
        meeting(store, [{}, {}], world=3, ranks=(1, 2))  # there is no rank 0 that could
        assert [(r.levelname, r.message) for r in caplog.records] == [
            ("ERROR", "Waiting for rank 0 to start, for 0.6 s at most.")
        ]


def test_a_store_that_is_lost_is_one_line():
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    client = dist.TCPStore("127.0.0.1", server.port, is_master=False, wait_for_workers=False)  # type: ignore[attr-defined]
    del server
    [said] = on_each(lambda: gather(client, 1, 2, TIMEOUT))
    assert said == "the launch's store was lost at the start: what keeps it has ended"
