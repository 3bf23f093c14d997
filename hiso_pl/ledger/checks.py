"""Checks of a header's values: they may come from anyone."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hiso_pl.zeroth_order.options import check_choices, check_count
from hiso_pl.zeroth_order.philox import MAX_ELEMENTS, MAX_LOCAL_STEPS

if TYPE_CHECKING:
    from hiso_pl.ledger.header import Method, TensorFacts

Value = int | float | str | bool | None
"""What an option of a method's part may be."""

MAX_DIMENSIONS = 64

_SHA256 = re.compile(r"[0-9a-f]{64}")


def integer(name: str, value: Any) -> int:
    """Returns ``value`` if it is an integer.

    Raises:
        ValueError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name}={value!r} must be an integer")
    return value


def check_sha256(name: str, value: Any) -> None:
    """Refuses what is no SHA-256.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError(f"{name}={str(value)[:80]!r} must be 64 hexadecimal digits")


def check_method(method: Method) -> None:
    """Refuses a method with a field that cannot be.

    Raises:
        ValueError: If there is one.
    """
    check_count("local_steps", integer("local_steps", method.local_steps), MAX_LOCAL_STEPS)
    for name in ("difference", "distribution", "aggregation"):
        if not isinstance(getattr(method, name), str):
            raise ValueError(f"method.{name}={getattr(method, name)!r} must be text")
    check_choices(difference=method.difference, distribution=method.distribution)
    for name, part in (("preconditioner", method.preconditioner), ("update_rule", method.update_rule)):
        if not isinstance(part.kind, str) or not isinstance(part.options, Mapping):
            raise ValueError(f"method.{name} must be a name and a mapping of options")
        for key, value in part.options.items():
            if not isinstance(key, str) or not isinstance(value, Value):
                raise ValueError(f"method.{name}.{key}={str(value)[:80]} must be a number, text or null")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"method.{name}.{key}={value} must be finite")


def check_tensors(tensors: tuple[TensorFacts, ...]) -> None:
    """Refuses tensors that cannot be trained together.

    Raises:
        ValueError: If there is one too many, or one that cannot be.
    """
    if not tensors:
        raise ValueError("tensors=[] must name at least one trainable tensor")
    names: set[str] = set()
    for tensor in tensors:
        if not isinstance(tensor.name, str) or not isinstance(tensor.stored, bool):
            raise ValueError(f"tensor {tensor.name!r} must have a name, and stored must be true or false")
        large = len(tensor.shape) > MAX_DIMENSIONS or any(
            not 0 <= integer("shape", n) <= MAX_ELEMENTS for n in tensor.shape
        )
        if large or math.prod(tensor.shape) > MAX_ELEMENTS:
            raise ValueError(f"tensor {tensor.name!r}: its shape must be of at most 2**34 elements")
        check_sha256(f"tensor {tensor.name!r}: sha256", tensor.sha256)
        if tensor.name in names:
            raise ValueError(f"tensor {tensor.name!r} is named twice")
        names.add(tensor.name)
