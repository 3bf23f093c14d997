"""A saved state, checked before anything of it is taken: it may come from a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hiso_pl.zeroth_order.record import RoundRecord

KEPT = ("lr", "initial_lr", "round", "applied")
"""What a saved group says; the rest of a group is as configured."""


def check_group(saved: Any, configured: Mapping[str, Any]) -> dict[str, Any]:
    """The one group of a saved state, with what the configuration says of it in place of what it says itself.

    Args:
        saved: The state's ``param_groups``.
        configured: The optimizer's own group.

    Raises:
        ValueError: If it is of another seed, distribution or rank of directions, or says what cannot be.
    """
    if not isinstance(saved, Sequence) or len(saved) != 1 or not isinstance(saved[0], Mapping):
        raise ValueError("param_groups of a saved state must be a list of one mapping")
    group = {"rank": 1, **saved[0]}  # older states tell of none
    for key in (key for key in ("seed", "distribution", "rank") if key in configured):
        if type(group.get(key)) is not type(configured[key]) or group[key] != configured[key]:
            said = _said_of(group.get(key))
            raise ValueError(f"{key}={configured[key]!r} configured, but the state was made with {said}")
    taken = {key: group[key] for key in KEPT if key in group}
    for key, most in (("round", 1 << 32), ("applied", taken.get("round", 0))):
        if type(taken.get(key)) is not int or not 0 <= taken[key] <= most:
            raise ValueError(f"{key}={_said_of(taken.get(key))} of a saved state must be an integer in [0, {most}]")
    for key in ("lr", "initial_lr"):
        if key in taken and not _is_rate(taken[key]):
            raise ValueError(f"{key}={_said_of(taken[key])} of a saved state must be a finite number of at least 0")
    if "lr" not in taken:
        raise ValueError("a saved state must hold its lr")
    return {**{k: v for k, v in configured.items() if k not in ("params", *KEPT)}, **taken}


def check_record(data: Any, round: int) -> RoundRecord | None:
    """The record of the last round, if the state was saved after one.

    Raises:
        ValueError: If it is of another round, or no record.
    """
    if data is None:
        return None
    try:
        _check_plain(data)
        record = RoundRecord.of_data(data)
        if record.round != round - 1:
            raise ValueError(f"round={record.round} must be {round - 1}")
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"record of a saved state cannot be: {error}") from error
    return record


def _check_plain(data: Any) -> None:
    """Refuses what is no record as plain numbers, by :meth:`~hiso_pl.zeroth_order.record.RoundRecord.as_data`."""
    kinds = {"round": (int,), "lr": (int, float), "mu": (int, float), "cohort": (int,)}
    if not isinstance(data, Mapping) or set(data) != {*kinds, "scalars", "dropped"}:
        raise ValueError(f"it must hold {', '.join(kinds)}, scalars and dropped")
    for key, kind in kinds.items():
        if type(data[key]) not in kind:
            raise ValueError(f"{key} must be {' or '.join(k.__name__ for k in kind)}")
    rows = data["scalars"]
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in (*rows, data["dropped"])):
        raise ValueError("scalars and dropped must be lists")
    if any(type(g) not in (int, float) for row in rows for g in row) or any(
        type(s) is not int for s in data["dropped"]
    ):
        raise ValueError("scalars and dropped must hold numbers")


def check_tensors(name: str, found: Any, kept: Mapping[str, Tensor], positive: bool) -> None:
    """Refuses the saved state of a tensor that holds something else than this configuration keeps for it.

    Args:
        name: The tensor.
        found: What was saved of it.
        kept: What is kept of it.
        positive: Whether H divides by its root, element by element.

    Raises:
        ValueError: If names, shapes or types differ, or values cannot be.
    """
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"state of {name!r} must be tensors by name")
    there, here = ({key: _said(value) for key, value in state.items()} for state in (found, kept))
    if there != here:
        raise ValueError(f"state of {name!r} holds {_listed(there)}; this configuration keeps {_listed(here)}")
    for key, value in found.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"state of {name!r} holds {key} with values that are not finite")
        if key == "hessian" and positive and (value < 0).any():
            raise ValueError(f"state of {name!r} holds hessian with values below 0")


def _is_rate(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and _is_rate(float(value))
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def _said_of(value: Any) -> str:
    """A number or a word of a file, or else what it is: the rest may be endless."""
    return repr(value)[:80] if isinstance(value, int | float | str | None) else type(value).__name__


def _said(value: Tensor) -> str:
    kind = "" if value.dtype == torch.float32 else f" {str(value.dtype).removeprefix('torch.')}"
    return f"{tuple(value.shape)}{kind}"


def _listed(said: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(said.items())) or "nothing"
