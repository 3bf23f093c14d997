"""What ranks tell each other before a run; all of them hear the same, so that none waits for one that has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch.distributed as dist

from hiso_pl.ranks.roll_call import meeting

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
