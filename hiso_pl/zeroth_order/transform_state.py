"""A transform's state, kept beside the first tensor: in its place it is part of digest, checkpoint and comparison."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

import numpy as np
import torch
from torch import Tensor

from hiso_pl.zeroth_order.options import check_initial
from hiso_pl.zeroth_order.record import RoundRecord
from hiso_pl.zeroth_order.transform import State, Transform

PREFIX = "transform."
"""What the names of a transform's state begin with, among those that are kept beside a tensor."""
MOST = 1 << 16
"""Numbers that a state may have."""


def create(transform: Transform | None, parameter: Tensor, name: str) -> dict[str, Tensor]:
    """The state before the first round, as it is kept.

    Args:
        transform: The transform, if there is one.
        parameter: The first tensor.
        name: Its name.

    Raises:
        ValueError: If the transform gives what cannot be kept.
    """
    if transform is None:
        return {}
    given, what = transform.initial(), f"transform={transform!r}: initial() gave"
    for key, value in given.items() if isinstance(given, Mapping) else [("", given)]:
        if not isinstance(value, np.ndarray):
            said = f"{type(value).__name__}{f' as {key!r}' if key else ''}"
            raise ValueError(f"{what} {said}, must give float32 arrays by name")
    if (size := sum(value.size for value in given.values())) > MOST:
        raise ValueError(f"{what} {size} numbers, must give at most {MOST}: all clients keep them")
    kept = {PREFIX + key: torch.from_numpy(value.copy()).to(parameter.device) for key, value in given.items()}
    check_initial(kept, parameter, name, f"transform={transform!r}", own_shape=True)
    return kept


def told(kept: Mapping[str, Tensor]) -> State:
    """The state as a transform knows it, copied, of all that is kept beside the first tensor."""
    chosen = {key.removeprefix(PREFIX): value for key, value in kept.items() if key.startswith(PREFIX)}
    return {key: value.detach().cpu().numpy().copy() for key, value in chosen.items()}


def advance(transform: Transform | None, kept: MutableMapping[str, Tensor], record: RoundRecord, averaged: int) -> None:
    """Advances what is kept, by a record alone.

    Raises:
        ValueError: If the transform does not do so in place.
    """
    state = told(kept)
    if transform is None or not state:
        return
    before = dict(state)
    given: object = transform.advance(state, record, averaged)  # type: ignore[func-returns-value]
    if given is not None or state.keys() != before.keys() or any(state[key] is not before[key] for key in before):
        raise ValueError(f"transform={transform!r} must advance its state in place: what advance() gives is lost")
    for key, value in state.items():
        kept[PREFIX + key].copy_(torch.from_numpy(value))
