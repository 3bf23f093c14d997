"""Two ranks on this machine that meet and add up a scalar, to see whether ranks can; the second is another process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import timedelta

import torch
from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import Store

from hiso_pl.errors import RunError, one_line

PATIENCE = timedelta(seconds=25)
SCALARS = (1.25, 2.5)
"""What the ranks bring."""


def way() -> str:
    """The network that gloo takes between ranks: the interface it is told of, or where the host's own name leads."""
    named = os.environ.get("GLOO_SOCKET_IFNAME")
    if named:
        return f"GLOO_SOCKET_IFNAME={named}"
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        return f"host name {name}, which is not known here ({error.strerror or error})"
    loopback = ", the loopback: ranks of other machines do not meet there" if address.startswith("127.") else ""
    return f"host name {name}, which is {address}{loopback}"


def meet() -> None:
    """Starts the second rank, meets it, and adds up with it.

    Raises:
        RunError: If they do not meet, or the sum is not right.
    """
    # by address, as the name may lead elsewhere: the ranks' own connections are what is tried
    store = TCPStore("127.0.0.1", 0, None, True, PATIENCE, False)
    command = [sys.executable, "-m", "hiso_pl.ranks.pair", str(store.port)]
    clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    with subprocess.Popen(command, env=clean, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as second:
        try:
            found = _added(store, 0)
        except RuntimeError as error:  # torch's errors of a store or a connection
            second.kill()
            said = (second.stderr.read() if second.stderr else "").strip().rpartition("\n")[2]
            raise RunError(f"two ranks do not meet by {way()}: {one_line(said or error, 200)}") from error
    if found != sum(SCALARS):
        raise RunError(f"two ranks added up {SCALARS[0]} and {SCALARS[1]} to {found}")


def _added(store: Store, rank: int) -> float:
    group = ProcessGroupGloo(PrefixStore("pair", store), rank, 2, PATIENCE)
    scalar = torch.tensor([SCALARS[rank]])
    group.allreduce([scalar]).wait()  # type: ignore[attr-defined]
    group.barrier().wait()  # type: ignore[attr-defined]  # neither leaves while the other still reads
    return float(scalar)


if __name__ == "__main__":
    _added(TCPStore("127.0.0.1", int(sys.argv[1]), None, False, PATIENCE), 1)
