"""A method as data, for files: what stands there, and what cannot."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hiso_pl.zeroth_order.aggregation import Aggregation, Mean
from hiso_pl.zeroth_order.attack import Attack
from hiso_pl.zeroth_order.options import check_choices, check_count, check_rank
from hiso_pl.zeroth_order.part import Part, built
from hiso_pl.zeroth_order.philox import MAX_LOCAL_STEPS
from hiso_pl.zeroth_order.preconditioner import Preconditioner
from hiso_pl.zeroth_order.privacy import Privacy
from hiso_pl.zeroth_order.schedule import Schedule
from hiso_pl.zeroth_order.transform import Transform
from hiso_pl.zeroth_order.update_rule import UpdateRule

PARTS: Mapping[str, tuple[str, type[Part], bool]] = {
    "preconditioner": ("preconditioner", Preconditioner, True),
    "update_rule": ("update_rule", UpdateRule, True),
    "privacy": ("privacy", Privacy, False),
    "transform": ("transform", Transform, False),
    "attack": ("attack", Attack, False),
    "aggregation": ("aggregation", Aggregation, True),
    "mu_schedule": ("schedule", Schedule, False),
    "num_directions_schedule": ("schedule", Schedule, False),
}
"""The fields that are parts: kind, class, and whether there must be one."""
APPLIED = ("local_steps", "distribution", "rank", "preconditioner", "update_rule")
"""The fields that the update of a given record depends on: replay needs no others."""
ALLOWING = ("local_lr",)
"""The fields without which those would be refused together, though no record depends on them."""
COUNTED = ("local_steps", "directions")
"""The fields that the bits of a round depend on."""
STATEFUL = "stateful_transform"
"""Said in a method's data where records advance a state of the transform, so that replay needs the transform too."""
COUNTING = "counted_by_parts"
"""Said in a method's data where transform or aggregation count bits in their own way, so that counting needs them."""
LATER: Mapping[str, Any] = {"directions": "shared", "local_lr": None, "rank": 1, "privacy": None, "attack": None}
"""Fields that data tell only where they are something else: older data have none, and what is told stays the same."""
CARRIED = ("memory", "backend")
"""The fields that say how a round is carried out: the bits are the same whatever they are."""


def applied(data: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields that the update of a given record depends on, by a method's data."""
    return (*APPLIED, "directions", "transform") if data.get(STATEFUL) else APPLIED


def needed(data: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields of which a method is made that applies records: those, and what they would be refused without."""
    return (*applied(data), *ALLOWING)


def said_of(transform: Transform | None, aggregation: Aggregation) -> dict[str, bool]:
    """What a method's data say besides its fields: nothing, unless parts have a state or count bits in their way."""
    stateful = transform is not None and bool(transform.initial())
    counting = type(aggregation).received_bits not in (Aggregation.received_bits, Mean.received_bits)
    if transform is not None:
        counting |= type(transform).sent_bits is not Transform.sent_bits
        counting |= type(transform).summed_bits is not Transform.summed_bits
    return {name: True for name, so in ((STATEFUL, stateful), (COUNTING, counting)) if so}


def values_of(data: Mapping[str, Any], names: Collection[str], mine: object = None) -> dict[str, Any]:
    """Fields from a method's data, with their parts built where they are registered.

    Args:
        data: The data; they may come from anyone.
        names: Which fields; those that are absent are left out.
        mine: A method whose parts are taken where they are equal, registered or not.

    Raises:
        ValueError: If a part is another's.
    """
    values = {name: data[name] for name in names if name in data}
    for name, value in values.items():
        if name not in PARTS or value is None:
            continue
        part = getattr(mine, name, None)
        try:
            values[name] = part if part is not None and part.as_data() == value else built(PARTS[name][0], value)
        except ValueError as error:
            raise ValueError(f"{error}; a part of your own is named by --method CONFIG") from error
    return values


def filled(name: str, value: Any) -> Any:
    """A field's data with the defaults of options that are absent; of a part that is not registered, as it is."""
    try:
        return built(PARTS[name][0], value).as_data() if name in PARTS else value
    except ValueError:
        return value


def check_data(data: Any, names: Collection[str]) -> None:
    """Refuses what is no method's data, as far as can be said without building a part.

    Args:
        data: The data; they may come from anyone.
        names: The method's fields.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"method is {type(data).__name__}, must be a mapping")
    for name, value in data.items():
        if name in (STATEFUL, COUNTING) and value is True:
            continue
        if name not in names or name in CARRIED:
            raise ValueError(f"method has {str(name)[:80]!r}, which this version does not know")
        if name not in PARTS and isinstance(value, Mapping | list):
            raise ValueError(f"method.{name}={str(value)[:80]} must be a number, text or null")
        if name not in PARTS or (value is None and not PARTS[name][2]):
            continue
        if not isinstance(value, Mapping) or [type(v) for v in value.values()] != [dict]:
            raise ValueError(f"method.{name} must be one name with a mapping of its options, not {str(value)[:80]}")
        for key, option in next(iter(value.values())).items():
            if isinstance(option, Mapping):
                raise ValueError(f"method.{name}.{str(key)[:80]}={str(option)[:80]} must be a number, text or null")
    check_choices(
        **{name: data[name] for name in ("difference", "directions", "distribution", "compute_dtype") if name in data}
    )
    steps = data.get("local_steps", 1)
    if type(steps) is not int:
        raise ValueError(f"method.local_steps={str(steps)[:80]} must be an integer")
    check_count("method.local_steps", steps, MAX_LOCAL_STEPS)
    check_rank(data.get("rank", 1), data.get("distribution", "normal"))
