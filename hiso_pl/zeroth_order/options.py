"""Checks of the optimizer's options: each refusal names option, value and what would be right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from hiso_pl.zeroth_order.aggregation import Aggregation
from hiso_pl.zeroth_order.attack import Attack
from hiso_pl.zeroth_order.kernels import BACKENDS
from hiso_pl.zeroth_order.privacy import Privacy
from hiso_pl.zeroth_order.streams import DISTRIBUTIONS, MAX_RANK
from hiso_pl.zeroth_order.update_rule import UpdateRule

ComputeDtype = Literal["float32", "bfloat16", "float16"]
DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CHOICES = {
    "difference": ("forward", "central"),
    "directions": ("shared", "client"),
    "distribution": DISTRIBUTIONS,
    "backend": BACKENDS,
    "memory": ("fast", "low"),
    "compute_dtype": tuple(DTYPES),
}


def check_count(name: str, value: int, limit: int) -> None:
    """Refuses what is no integer in ``[1, limit)``.

    Raises:
        ValueError: If it is not.
    """
    if isinstance(value, bool) or int(value) != value or not 1 <= value < limit:
        raise ValueError(f"{name}={value} must be an integer in [1, {limit})")


def check_choices(**values: str) -> None:
    """Refuses a name that stands for nothing.

    Raises:
        ValueError: If one is not among its choices.
    """
    for name, value in values.items():
        if value not in CHOICES[name]:
            raise ValueError(f"{name}={value!r} must be one of {', '.join(CHOICES[name])}")


def check_comparing(directions: str, aggregation: Aggregation, attack: Attack | None) -> None:
    """Refuses what compares slots where each has directions of its own.

    Raises:
        ValueError: If aggregation or attack do.
    """
    if directions != "client":
        return
    said = f"compares slots, so directions={directions!r} must be 'shared': scalars along other directions cannot be"
    if aggregation.compares_slots:
        raise ValueError(f"aggregation={aggregation!r} {said} compared; Mean, WeightedMean and NormClipping do without")
    if attack is not None and attack.compares_slots:
        raise ValueError(f"attack={attack!r} {said} compared")


def check_privacy(privacy: Privacy | None, aggregation: Aggregation, local_steps: int) -> None:
    """Refuses what tells more of clients than their privacy does.

    Raises:
        ValueError: If aggregation or local steps do.
    """
    if privacy is None:
        return
    if aggregation.by_examples:
        raise ValueError(
            f"aggregation={aggregation!r} tells how many examples a client has, which privacy={privacy!r} keeps with "
            "it: must be a rule that does not, such as Mean"
        )
    if privacy.level == "example" and local_steps != 1:
        raise ValueError(
            f"local_steps={local_steps} must be 1 with privacy={privacy!r}: later steps start from where the raw "
            "scalars of earlier ones led"
        )


def check_rank(rank: int, distribution: str) -> None:
    """Refuses what is no rank, and a rank of directions that have none to choose.

    Raises:
        ValueError: If it is not to be had.
    """
    if type(rank) is not int or not 1 <= rank <= MAX_RANK:
        raise ValueError(f"rank={str(rank)[:80]} must be an integer in [1, {MAX_RANK}]")
    if rank != 1 and distribution != "low_rank":
        raise ValueError(f"rank={rank} needs distribution='low_rank', not {distribution!r}: leave it at 1 elsewhere")


def check_directions_per_forward(value: int | str, memory: str) -> None:
    """Refuses what is neither a number of points nor ``auto``, and what no memory is meant for.

    Raises:
        ValueError: If it is not to be had.
    """
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"directions_per_forward={value!r} must be at least 1, or 'auto'")
    if value != 1 and memory == "low":
        raise ValueError(
            f"directions_per_forward={value} must be 1 with memory='low': several points at once take several copies"
        )


def check_local_lr(value: Any, local_steps: int, rule: UpdateRule) -> None:
    """Refuses a rate of local moves that is none, that would have no effect, or that is missing where it is needed.

    Args:
        value: The rate; the round's if null.
        local_steps: Local steps tau.
        rule: What is done with the round's direction.

    Raises:
        ValueError: If it is not to be had.
    """
    if value is None:
        if local_steps > 1 and not rule.plain_rate:
            raise ValueError(
                f"local_lr=None must be given with local_steps={local_steps} and update_rule={rule!r}: that rule's lr "
                "is not one for the plain moves of a client between its local steps"
            )
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < math.inf:
        raise ValueError(f"local_lr={value!r} must be finite and not negative, or null for the round's lr")
    if local_steps == 1:
        raise ValueError(f"local_lr={value} must be null with local_steps=1: there are no local moves that count")


def check_enough(num_directions: int, together: int, rule: UpdateRule, round: int | None = None) -> None:
    """Refuses fewer directions than a rule needs.

    Args:
        num_directions: P, as messages name it.
        together: Directions that a round's record has.
        rule: What is done with the round's direction.
        round: The round, if P depends on it.

    Raises:
        ValueError: If they are too few.
    """
    if together < rule.least_directions:
        when = "" if round is None else f" in round {round}"
        raise ValueError(
            f"num_directions={num_directions}{when} gives a round {together} in all, must give at least "
            f"{rule.least_directions} for update_rule={rule!r}"
        )


def check_owners(owners: Sequence[int], tensors: int, what: str) -> None:
    """Refuses owners of H that are none: each is the position of a tensor that has an H of its own.

    Raises:
        ValueError: If one is not.
    """
    if len(owners) != tensors or any(o not in range(tensors) or owners[o] != o for o in owners):
        raise ValueError(f"{what}: owners() gave {str(owners)[:80]}, must give for each of {tensors} tensors an owner")


def check_initial(state: Any, parameter: Tensor, name: str, what: str, own_shape: bool) -> None:
    """Refuses what is to be kept for a tensor if no fp32 tensors on its device, or of a shape that H cannot have.

    Args:
        state: What is to be kept, by name.
        parameter: The tensor.
        name: Its name.
        what: The part that gave it, as messages name it.
        own_shape: Whether the shapes are the part's own affair.

    Raises:
        ValueError: If it cannot be kept.
    """
    for key, value in state.items() if isinstance(state, Mapping) else [("", state)]:
        fp32 = isinstance(value, Tensor) and value.dtype == torch.float32 and value.device == parameter.device
        if fp32 and (own_shape or value.shape == parameter.shape or value.numel() == 1):
            continue
        found = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"{what}: initial() gave {found}{f' as {key!r}' if key else ''} for {name!r}, "
            f"must give float32 on {parameter.device}{'' if own_shape else ', of its shape or one element'}"
        )
