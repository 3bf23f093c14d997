"""The start of a process group: all ranks have come, or those that have not are named."""

from __future__ import annotations

import secrets
import time
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore, Store

from hiso_pl.ranks import patience
from hiso_pl.ranks.roll_call import LostRankError


def gather(store: Store, rank: int, world: int, timeout: timedelta) -> Store:
    """Meets the other ranks in a store that earlier attempts of the launch may have used.

    A launch has one store for all its attempts, and machines may count their attempts differently. So rank 0 draws a
    name for this attempt, and tells it to each rank that asks. Who does not ask in time is named.

    Args:
        store: The launch's store.
        rank: This rank.
        world: Number of ranks.
        timeout: How long the group's collectives wait; at the start ten minutes at least.

    Returns:
        A part of the store that only this group uses.

    Raises:
        LostRankError: If a rank did not come.
    """
    store, seconds = PrefixStore("hiso_pl/start", store), max(timeout.total_seconds(), patience.START_S)
    until = time.monotonic() + seconds
    own = secrets.token_hex(8)
    store.set(f"asks/{rank}", own)
    name = own if rank == 0 else None
    waiting = set(range(1, world)) if rank == 0 else {0}
    while waiting and time.monotonic() < until:
        if rank == 0:
            for other in list(waiting):
                if store.check([f"asks/{other}"]):  # perhaps what it asked in an earlier attempt, and it asks again
                    store.set(f"answer/{store.get(f'asks/{other}').decode()}", own)
                if store.check([f"{own}/here/{other}"]):
                    waiting.discard(other)
        elif store.check([f"answer/{own}"]):
            name, waiting = store.get(f"answer/{own}").decode(), set()
            store.set(f"{name}/here/{rank}", "1")
        if waiting:
            time.sleep(patience.POLL_S)
    if waiting:
        ranks = f"rank{'s' if len(waiting) > 1 else ''} {', '.join(map(str, sorted(waiting)))}"
        text = f"{ranks} did not come to the start within {seconds:g} s"
        if rank == 0:  # those who have come will ask
            store.set(f"group/{own}/verdict", text)
        raise LostRankError(text)
    return PrefixStore(f"group/{name}", store)
