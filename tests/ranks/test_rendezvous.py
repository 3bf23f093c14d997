"""What answers where a launch says that its store is: a store, nothing, something else, or nobody of that name."""

from __future__ import annotations

import http.server
import logging
import os
import socket
import threading
import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from hiso_pl.ranks import environment, patience
from hiso_pl.ranks.rendezvous import await_store, connect
from hiso_pl.ranks.roll_call import LostRankError

TIMEOUT = timedelta(seconds=5)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, seconds in {"AGENT_S": 0.6, "START_S": 0.6, "SAY_S": 0.1, "CONNECT_S": 0.3}.items():
        monkeypatch.setattr(patience, name, seconds)
    for name in (environment.BY_TORCHRUN, environment.BY_LIGHTNING, "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def at(monkeypatch):
    """Says where the store is, and who has started the ranks."""

    def at(port, address="127.0.0.1", *, agent=True):
        for name, value in {"MASTER_ADDR": address, "MASTER_PORT": str(port)}.items():
            monkeypatch.setenv(name, value)
        if agent:
            monkeypatch.setenv(environment.BY_TORCHRUN, "none")
            monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")

    return at


@pytest.fixture
def silent():
    """A port that takes connections and says nothing."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        found.listen(5)
        yield found.getsockname()[1]


@pytest.fixture
def talking():
    """A port whose answer to anything is a line of its own."""

    class Other(http.server.BaseHTTPRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 ready\r\n")

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture
def dead():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.parametrize("libuv", [True, False])
def test_a_store_is_found(at, libuv):
    kept = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, use_libuv=libuv)
    at(kept.port)
    found = await_store(1, 2, TIMEOUT)
    found.set("key", "value")
    assert kept.get("key") == b"value"


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("dead", "connection refused"),
        ("silent", "no answer"),
        ("talking", "something else answers there"),
        ("unknown", "name or service not known|temporary failure in name resolution|no address"),
        ("no name", "no host's name"),
    ],
)
def test_what_is_no_store_is_said_and_given_up(request, at, caplog, capfd, monkeypatch, kind, why):
    names = {"unknown": "no.such.host.invalid", "no name": "a" * 70}
    port = 29500 if kind in names else request.getfixturevalue(kind)
    address = names.get(kind, "127.0.0.1")
    at(port, address)
    monkeypatch.setattr(patience, "ANSWER_S", 0.3)
    began = time.monotonic()
    with caplog.at_level(logging.ERROR), pytest.raises(LostRankError) as lost:
        await_store(1, 2, TIMEOUT)
    assert time.monotonic() - began < 10.0
    where = rf"the launch's store at MASTER_ADDR={address}, MASTER_PORT={port} \(({why})\)"
    unset = "unset RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT and TORCHELASTIC_RUN_ID"
    assert lost.match(rf"rank 1 of 2 did not reach {where} within 0\.6 s: .*{unset}")
    [said] = [record.message for record in caplog.records]
    assert said.startswith("Rank 1 of 2 waits for the launch's store at")
    assert "for 0.6 s at most" in said
    assert capfd.readouterr().err == ""  # torch would tell of it in a hundred lines


def test_rank_0_keeps_it_where_nobody_else_does(at, dead, talking):
    at(dead, "no.such.host.invalid", agent=False)  # by its own name, as another is of no use here
    kept = await_store(0, 2, TIMEOUT)
    connect("127.0.0.1", dead, TIMEOUT).set("key", "value")
    assert kept.get("key") == b"value"
    at(talking, agent=False)
    with pytest.raises(ValueError, match=f"MASTER_PORT={talking} in the environment is in use by another process"):
        await_store(0, 2, TIMEOUT)


def test_a_rank_does_not_outwait_the_process_that_started_it(at, dead, monkeypatch):
    at(dead, agent=False)
    monkeypatch.setattr(patience, "START_S", 60.0)
    monkeypatch.setenv(environment.BY_LIGHTNING, str(os.getppid()))
    monkeypatch.setattr(os, "getppid", lambda: 1)  # as of an orphan
    with pytest.raises(LostRankError, match=r"the process that started this one, and kept .* has ended"):
        await_store(1, 2, TIMEOUT)
