"""Whether data are the same: on all ranks, none of which waits for one that has ended, and as before on a resume."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch.distributed as dist

from hiso_pl.ranks.roll_call import meeting

logger = logging.getLogger(__name__)

T = TypeVar("T")


def tell(value: T) -> list[T]:
    """What every rank has to say, by rank; where there is no process group this one's alone."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    said: list[T] = [value] * dist.get_world_size()
    with meeting("to the comparison of the ranks' data"):
        dist.all_gather_object(said, value)
    return said


@contextmanager
def together() -> Iterator[None]:
    """What one rank raises inside the block, all ranks raise at its end.

    Raises:
        ValueError: If another rank raised something, in its words.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    said = tell(None if failure is None else str(failure) or type(failure).__name__)
    if failure is not None:
        raise failure
    for message in said:
        if message is not None:
            raise ValueError(message)


def compare_resumed(saved: Mapping[str, str], mine: Mapping[str, str], may_change: bool) -> None:
    """Compares hashes of the data with those of the run that goes on.

    Args:
        saved: The checkpoint's.
        mine: This run's.
        may_change: Whether a change was asked for by name.

    Raises:
        ValueError: If they differ, and it was not.
    """
    changed = ", ".join(name for name in {**saved, **mine} if saved.get(name) != mine.get(name))
    if changed and not may_change:
        raise ValueError(
            f"this run differs from the checkpoint's in its {changed}: give the data that it was begun with, or "
            "ask for the change by --change_on_resume '[data]'"
        )
    if changed:
        logger.warning("Changed on resume, as asked: %s.", changed)
