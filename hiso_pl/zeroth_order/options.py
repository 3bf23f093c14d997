"""Checks of the optimizer's options: each refusal names option, value and what would be right."""

from __future__ import annotations

from typing import Literal

import torch

from hiso_pl.zeroth_order.kernels import BACKENDS
from hiso_pl.zeroth_order.streams import DISTRIBUTIONS

ComputeDtype = Literal["float32", "bfloat16", "float16"]
DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CHOICES = {
    "difference": ("forward", "central"),
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
