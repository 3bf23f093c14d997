"""The way to a launch's store, and a line for who waits for one that does not answer.

torch waits for it in silence, without an end where something else listens, and tells of a failure in a hundred lines.
So it is asked by hand first whether a store is there.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import struct
import time
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from hiso_pl.ranks import patience
from hiso_pl.ranks.environment import BY_LIGHTNING, BY_TORCHRUN, under_lightning, under_torchrun
from hiso_pl.ranks.roll_call import LostRankError

log = logging.getLogger(__name__)

_VALIDATE, _PING, _MAGIC = 0, 13, 0x3C85F7CE  # torch/csrc/distributed/c10d/TCPStoreBackend.hpp


def await_store(rank: int, world: int, timeout: timedelta) -> TCPStore:
    """The store in which the ranks of a launch meet, waited for so long as it may yet come.

    torchrun's agent has it before there is a rank. Where Lightning or an agent that shares none starts the ranks, rank
    0 keeps it, and may take as long as any rank to start.

    Args:
        rank: This rank.
        world: Number of ranks.
        timeout: How long its operations wait.

    Raises:
        LostRankError: If it does not answer in time.
        ValueError: If rank 0 cannot keep it where the environment says.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    shared = under_torchrun() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if rank == 0 and not shared:
        return _kept_here(port, timeout)
    seconds = patience.AGENT_S if shared else patience.START_S
    began, said = time.monotonic(), False
    left_over = f"RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT and {BY_TORCHRUN}" if under_torchrun() else "MASTER_ADDR"
    while True:
        try:
            return connect(address, port, timeout)
        except OSError as error:
            where = f"the launch's store at MASTER_ADDR={address}, MASTER_PORT={port} ({error})"
        if BY_LIGHTNING in os.environ and not under_torchrun() and not under_lightning():
            raise LostRankError("the process that started this one, and kept the launch's store, has ended")
        waited = time.monotonic() - began
        hint = f"if nothing keeps it, these variables are left over from another launch: unset {left_over}"
        if waited > seconds:
            raise LostRankError(f"rank {rank} of {world} did not reach {where} within {seconds:g} s: {hint}")
        if waited > patience.SAY_S and not said:
            said = True
            log.error("Rank %d of %d waits for %s, for %g s at most; %s.", rank, world, where, seconds, hint)
        time.sleep(min(10 * patience.POLL_S, seconds))


def connect(address: str, port: int, timeout: timedelta) -> TCPStore:
    """A store that is there already.

    Args:
        address: Its machine.
        port: Its port there.
        timeout: How long its operations wait.

    Raises:
        OSError: If nothing is there, or something else; it says which in a few words.
    """
    try:
        with socket.create_connection((address, port), patience.CONNECT_S) as there:
            nonce = secrets.token_bytes(4)
            there.settimeout(patience.ANSWER_S)
            there.sendall(struct.pack("<BIB", _VALIDATE, _MAGIC, _PING) + nonce)
            answer = there.recv(4)
    except TimeoutError:
        raise OSError("no answer") from None
    except OSError as error:
        raise OSError(str(error.strerror or error).lower()) from None
    except UnicodeError:
        raise OSError("no host's name") from None
    if answer not in (b"", nonce):
        raise OSError("something else answers there")

    def make() -> TCPStore:
        return TCPStore(address, port, is_master=False, timeout=timeout, wait_for_workers=False)

    store = patience.within(patience.STORE_S, make, None)
    if store is None:
        raise OSError("something else listens there")
    return store


def _kept_here(port: int, timeout: timedelta) -> TCPStore:
    """The store of a launch that this process keeps; by its own name, as the launch's may be of no use here."""
    try:
        return TCPStore("localhost", port, None, True, timeout, False, multi_tenant=True)
    except RuntimeError as error:
        if "EADDRINUSE" not in str(error) and "EACCES" not in str(error):
            raise
        why = "is in use by another process" if "EADDRINUSE" in str(error) else "cannot be had by this user"
        raise ValueError(
            f"MASTER_PORT={port} in the environment {why}: unset it, or give a port that is free"
        ) from None
