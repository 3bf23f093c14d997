"""Parts: the exchangeable pieces of a method, and the one registry in which each kind is found by name.

A part is a class of its own in a file of its own, and is registered by the one line with which its room imports it.
Nothing else needs to know its name. A part from outside the package is used by its ``class_path``.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

MODERATE = 1e18
"""Below it neither a square of a number nor a sum over a cohort leaves fp32."""

ROOMS: Mapping[str, str] = {
    "preconditioner": "hiso_pl.zeroth_order.preconditioner",
    "update_rule": "hiso_pl.zeroth_order.update_rule",
    "privacy": "hiso_pl.federation.privacy",
    "transform": "hiso_pl.federation.scalars",
    "attack": "hiso_pl.federation.attacks",
    "aggregation": "hiso_pl.federation.aggregation",
    "schedule": "hiso_pl.zeroth_order.schedule",
}
"""Where the parts of each kind are, by the name of the kind."""


class Part:
    """A piece of a method. Its constructor's arguments are its options, and each is kept under its own name.

    Two parts are equal if they are of one class and have equal options.

    Attributes:
        later: Options that data tell only where they are something else than here: they came when files had been
            written without them, and what is told of such a part stays the same.
    """

    later: ClassVar[Mapping[str, Any]] = {}

    @property
    def options(self) -> dict[str, Any]:
        """The options by name.

        Raises:
            ValueError: If one is not kept under its name, so that nobody could say what this part computes.
        """
        names = [] if type(self).__init__ is object.__init__ else inspect.signature(type(self)).parameters
        for name in names:
            if not hasattr(self, name):
                raise ValueError(f"{type(self).__name__} must keep its option {name!r} under that very name")
        return {name: getattr(self, name) for name in names}

    def as_data(self) -> dict[str, Any]:
        """Name and options: ``{name: options}``. A registered class goes by its own name, another by its full one."""
        told = {key: value for key, value in self.options.items() if key not in self.later or value != self.later[key]}
        return {name_of(type(self)): told}

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.options == other.options  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.options.items())})"


def checked_scalars(given: Any, shape: tuple[int, ...], likely: bool, what: str) -> NDArray[np.float32]:
    """What a part has made of scalars, as it must be: of another shape it would be spread, of another type rounded.

    Args:
        given: What the part gave.
        shape: The shape it must have.
        likely: Whether what it was given leaves no room for a number that is not finite.
        what: The part, as messages name it.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(given, np.ndarray) or given.shape != shape or given.dtype != np.float32:
        found = f"{given.dtype} of shape {given.shape}" if isinstance(given, np.ndarray) else type(given).__name__
        raise ValueError(f"{what} gave {found}, must give float32 of shape {shape}")
    if likely and not np.isfinite(given).all():
        raise ValueError(f"{what} gave {given[~np.isfinite(given)][0]}, must give finite numbers of finite ones")
    return given


def moderate(scalars: NDArray[np.float32]) -> bool:
    """Whether scalars are finite, and none is so large that a sum or a square of them may not be."""
    return bool((np.abs(scalars) < MODERATE).all())


def known(kind: str) -> dict[str, type[Part]]:
    """The registered parts of a kind, by name."""
    room = vars(import_module(ROOMS[kind]))
    return {name: value for name, value in room.items() if _is_part(value) and not name.startswith("_")}


def name_of(part: type[Part]) -> str:
    """What a class is called in files: its name if it is registered, or else its module and name."""
    if any(known(kind).get(part.__name__) is part for kind in ROOMS):
        return part.__name__
    return f"{part.__module__}.{part.__qualname__}"


def built(kind: str, data: Any) -> Part:
    """A registered part from its data, which may come from anyone.

    Options that are not in the data have their defaults.

    Raises:
        ValueError: If it is none, or has an option that cannot be.
    """
    if not isinstance(data, Mapping) or len(data) != 1:
        raise ValueError(f"{kind} must be one name with its options, not {str(data)[:80]}")
    (name, options), classes = next(iter(data.items())), known(kind)
    if name not in classes:
        raise ValueError(f"{kind}={str(name)[:80]!r} is not one of {', '.join(classes)}")
    parameters = inspect.signature(classes[name]).parameters
    for key, value in options.items() if isinstance(options, Mapping) else [("", options)]:
        if key not in parameters:
            raise ValueError(f"{kind} {name} has no option {str(key)[:80]!r}")
        wanted = _types(classes[name], parameters[key])
        if type(value) not in wanted and not (float in wanted and type(value) is int):
            names = " or ".join("null" if kind is type(None) else f"a {kind.__name__}" for kind in wanted)
            raise ValueError(f"{kind}.{key}={str(value)[:80]} must be {names}")
        if float in wanted and value is not None and abs(value) > sys.float_info.max:
            raise ValueError(f"{kind}.{key} of {len(str(value))} digits must be a float")
    return classes[name](**options)


def _types(part: type[Part], option: inspect.Parameter) -> tuple[type, ...]:
    """What an option's value may be: what its default is or, where that is None, what is written in the signature."""
    if option.default is not None:
        return (type(option.default),)
    written = get_type_hints(part.__init__)[option.name]
    return tuple(get_origin(kind) or kind for kind in get_args(written))


def _is_part(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, Part) and value is not Part and not inspect.isabstract(value)
