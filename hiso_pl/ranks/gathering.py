"""The start of a process group: all ranks have come and were given the same, or those that are not so are named."""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore, Store

from hiso_pl.errors import RunError
from hiso_pl.ranks import patience
from hiso_pl.ranks.roll_call import LostRankError

log = logging.getLogger(__name__)

ROOM = "hiso_pl/start"
ENDED = "ended: "
ADVICE = {
    "start": "trainer.default_root_dir must be a folder that all machines share, or hold the same on each of them",
    "version of hiso_pl": "install one version on all machines",
}
NAMED = 3
"""Things in which ranks differ that an error names; of more only the number is told."""
WIDTH = 60
"""Characters of a value that an error shows."""


def gather(store: Store, rank: int, world: int, timeout: timedelta, given: Mapping[str, str] | None = None) -> Store:
    """Meets the other ranks in a store that earlier attempts of the launch may have used, and compares what they do.

    A launch has one store for all its attempts, and machines may count their attempts differently. So rank 0 draws a
    name for this attempt, and tells it to each rank that asks; who comes says what it was given, and rank 0 tells all
    whether that is one and the same. This is before any collective: ranks of two commands would wait in different ones.

    Args:
        store: The launch's store.
        rank: This rank.
        world: Number of ranks.
        timeout: How long the group's collectives wait; at the start ten minutes at least.
        given: What must be the same on all ranks, by name.

    Returns:
        A part of the store that only this group uses.

    Raises:
        LostRankError: If a rank did not come; on all ranks that have.
        RunError: If the ranks were not given the same; on all of them.
    """
    store, own = PrefixStore(ROOM, store), secrets.token_hex(8)
    seconds = max(timeout.total_seconds(), patience.START_S)
    waiting = _Waiting(store, rank, seconds)
    try:
        store.set(f"asks/{rank}", own)
        if rank == 0:
            name = own
            _call_together(store, own, world, dict(given or {}), waiting)
        else:
            name = _read(store, f"answer/{own}", waiting).decode()
            store.set(f"{name}/here/{rank}", json.dumps(dict(given or {})))
            # rank 0 is there, and waits for so long itself
            patient = _Waiting(store, rank, seconds + patience.LATE_S, quiet=True)
            lost, text = json.loads(_read(store, f"{name}/said", patient))
            if text:
                raise LostRankError(text) if lost else RunError(text)
    except RunError:
        raise
    except RuntimeError as error:  # torch's store errors are RuntimeErrors
        log.debug("lost the store: %s", error)
        raise LostRankError("the launch's store was lost at the start: what keeps it has ended") from error
    return PrefixStore(f"group/{name}", store)


def leave(store: Store, rank: int, words: str) -> None:
    """Leaves word for those who wait for this rank at the start, which ends before it gets there."""
    PrefixStore(ROOM, store).set(f"asks/{rank}", ENDED + words)


def differing(everyone: Sequence[Mapping[str, str]], width: int = WIDTH) -> list[str]:
    """What is not the same on all ranks, each with the values and who holds them.

    Args:
        everyone: What each rank has, by name.
        width: Characters of a value that are shown.
    """
    names = dict.fromkeys(name for found in everyone for name in found)
    values = {name: [found.get(name, "absent") for found in everyone] for name in names}
    return [f"{name} ({_groups(found, width)})" for name, found in values.items() if len(set(found)) > 1]


class _Waiting:
    """Waits for ranks, says so when it takes long, and gives up those that have ended or do not come in time."""

    def __init__(self, store: Store, rank: int, seconds: float, quiet: bool = False) -> None:
        self._store, self._rank, self._seconds, self._began = store, rank, seconds, time.monotonic()
        self._ended: dict[int, float] = {}
        self._said = quiet

    def look(self, ranks: Sequence[int]) -> None:
        """Looks once for what keeps ranks, and lets a moment pass.

        Raises:
            LostRankError: If one is not to come.
        """
        now = time.monotonic()
        for rank in ranks:
            words = self.asked(rank)
            if words is None or not words.startswith(ENDED):
                self._ended.pop(rank, None)
            elif now - self._ended.setdefault(rank, now) >= patience.STALE_S:  # it is no earlier attempt's
                raise LostRankError(words.removeprefix(ENDED))
        named = f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
        if now - self._began > self._seconds:
            raise LostRankError(f"{named} did not come to the start within {self._seconds:g} s")
        if now - self._began > patience.SAY_S and not self._said:
            self._said = True
            # for rank 0 several wait; the others are heard from ERROR on
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            if self._rank == 0 or self._store.add(f"waits/{attempt}", 1) == 1:
                level = logging.WARNING if self._rank == 0 else logging.ERROR
                log.log(level, "Waiting for %s to start, for %g s at most.", named, self._seconds)
        time.sleep(patience.POLL_S)

    def asked(self, rank: int) -> str | None:
        """What a rank has asked by, perhaps in an earlier attempt; or that it has ended."""
        key = f"asks/{rank}"
        return self._store.get(key).decode() if self._store.check([key]) else None


def _call_together(store: Store, own: str, world: int, given: dict[str, str], waiting: _Waiting) -> None:
    """Rank 0's part: waits for all, and tells all the same."""
    everyone: dict[int, dict[str, str]] = {0: given}
    try:
        while missing := [rank for rank in range(world) if rank not in everyone]:
            for rank in missing:
                asked = waiting.asked(rank)
                if asked is not None and not asked.startswith(ENDED):
                    store.set(f"answer/{asked}", own)
                if store.check([key := f"{own}/here/{rank}"]):
                    everyone[rank] = json.loads(store.get(key))
            missing = [rank for rank in missing if rank not in everyone]
            if missing:
                waiting.look(missing)
        text = _not_the_same([everyone[rank] for rank in range(world)])
        if text:
            raise RunError(text)
    except RunError as error:
        store.set(f"{own}/said", json.dumps([isinstance(error, LostRankError), str(error)]))
        raise
    store.set(f"{own}/said", json.dumps([False, ""]))


def _read(store: Store, key: str, waiting: _Waiting) -> bytes:
    """What rank 0 sets, waited for."""
    while not store.check([key]):
        waiting.look([0])
    return store.get(key)


def _not_the_same(everyone: Sequence[Mapping[str, str]]) -> str:
    """What is said of ranks that were not given the same; of two commands the options are no matter."""
    if all(found == everyone[0] for found in everyone):
        return ""
    found = differing([{"command": each["command"]} for each in everyone if "command" in each]) or differing(everyone)
    more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    advice = "".join(f": {words}" for name, words in ADVICE.items() if found[0].startswith(f"{name} ("))
    return f"the ranks were not started alike: {'; '.join(found[:NAMED])}{more}{advice}"


def _groups(values: Sequence[str], width: int) -> str:
    """Which ranks hold which value."""
    ranks: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(value, []).append(rank)
    return ", ".join(f"{value[:width]} on rank {','.join(map(str, who))}" for value, who in ranks.items())
