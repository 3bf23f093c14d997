"""What is said of a tensor beside its values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch

from hiso_pl.errors import RunError
from hiso_pl.zeroth_order.digest import StateTensor


class Target(NamedTuple):
    """A trained tensor in a round, as a part is told of it.

    Attributes:
        position: Its place in the order handed to the optimizer.
        name: Its name in the network.
        shape: Its shape.
        round: The round r.
        applied: Rounds before this one that moved the state; empty rounds do not count.
    """

    position: int
    name: str
    shape: tuple[int, ...]
    round: int = 0
    applied: int = 0


class NotFiniteError(RunError):
    """An update has led to a state that is not finite; the message names round and tensor.

    Attributes:
        round: The round whose update it was.
    """

    def __init__(self, message: str, round: int = 0) -> None:
        super().__init__(message)
        self.round = round


def check_finite(tensors: Iterable[StateTensor], round: int, by: str, structured: bool = False) -> None:
    """Refuses a state in which a number is not finite, or an H is not positive, by one look at each tensor.

    Args:
        tensors: The state after an update.
        round: The round whose update it was.
        by: What the update was made with, as the message says it.
        structured: Whether numbers of H may be of either sign.

    Raises:
        NotFiniteError: At the first such tensor.
    """
    filled = [state for state in tensors if state.value.numel()]
    if not filled:
        return
    # NaN is both the smallest and the largest element where there is one; one transfer to the host for all tensors
    ends = torch.stack([torch.stack(torch.aminmax(state.value.detach())) for state in filled]).tolist()
    for state, (low, high) in zip(filled, ends, strict=True):
        what = "is not finite"
        if state.kind == "hessian" and low <= 0.0 and not structured:
            what = f"has fallen to {low:g}: give the preconditioner a floor above 0"
        elif math.isfinite(low) and math.isfinite(high):
            continue
        where = state.name if state.kind == "x" else f"{state.name} ({state.kind})"
        raise NotFiniteError(left_at(round, f"{where!r} {what}", by) + " with a smaller lr", round)


def left_at(round: int, what: str, by: str) -> str:
    """What is said of an update that leads nowhere."""
    return (
        f"round {round}: {what} after the update with {by}; nothing is saved of this round: go on from an earlier one"
    )
