"""The store of a launch: there before any process group and after it, and one for all attempts of a launch."""

from __future__ import annotations

import hashlib
import logging
import os
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from hiso_pl.ranks import gathering, rendezvous, roll_call
from hiso_pl.ranks.environment import rank, under_torchrun, world_size
from hiso_pl.ranks.patience import ANSWER_S, within

log = logging.getLogger(__name__)


def say_once(message: str) -> bool:
    """Decides which rank says a line that all ranks might say.

    The store of torchrun's agent, which is there before the process group and after it, counts who came first. Ranks
    that will miss this one are told the line as well, and have nothing to add to it.

    Args:
        message: The line.

    Returns:
        True on exactly one rank for a message; True everywhere where there is no such store to ask.
    """
    if not under_torchrun() or world_size() == 1:
        return True
    first = _is_first(message)
    if first:
        words = f"rank {rank()} has ended: {message}"
        _is_first(words)  # those who quote it have nothing to add
        farewell(words)
    return first


def farewell(words: str) -> None:
    """Leaves word for those who will miss this rank, at the start or later."""
    roll = roll_call.current()
    if roll is not None:
        roll.farewell(words)
    elif under_torchrun() and world_size() > 1:

        def note() -> None:
            store = _launch_store()
            if store is not None:
                gathering.leave(store, rank(), words)

        within(2 * ANSWER_S, note, None)


def _is_first(line: str) -> bool:
    """Whether nobody has said a line yet; also where there is no store to ask."""
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")

    def count() -> int:
        store = _launch_store()
        return 1 if store is None else int(store.add(f"hiso_pl/say/{restart}/{_short(line)}", 1))

    return within(2 * ANSWER_S, count, 1) == 1


def note_begun(root: str) -> None:
    """Notes for later attempts of this launch that the run in ``root`` is its own; without torchrun there are none."""
    store = _launch_store() if under_torchrun() else None
    if store is not None:
        store.set(f"hiso_pl/begun/{_short(os.path.abspath(root))}", "1")


def has_begun(root: str) -> bool:
    """Whether an earlier attempt of this very launch began the run in ``root``, so that this one may go on with it."""
    store = _launch_store() if under_torchrun() else None
    return store is not None and bool(store.check([f"hiso_pl/begun/{_short(os.path.abspath(root))}"]))


def _launch_store() -> TCPStore | None:
    """The store of torchrun's agent: there before any process group, and one for all attempts of a launch."""
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return rendezvous.connect(address, port, timedelta(seconds=ANSWER_S))
    except (KeyError, ValueError, OSError, RuntimeError) as error:  # torch's store errors are RuntimeErrors
        log.debug("no store of a launch: %s", error)
        return None


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
