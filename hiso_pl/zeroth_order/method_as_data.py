"""How a method is told in files, and made of what files tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from typing_extensions import Self

from hiso_pl.zeroth_order.aggregation import Aggregation
from hiso_pl.zeroth_order.method_data import (
    CARRIED,
    LATER,
    applied,
    check_data,
    filled,
    needed,
    said_of,
    values_of,
)
from hiso_pl.zeroth_order.part import Part
from hiso_pl.zeroth_order.transform import Transform


class MethodAsData:
    """A dataclass whose fields are a method's numbers, names and parts, and which is told by them."""

    transform: Transform | None
    aggregation: Aggregation

    @classmethod
    def check_data(cls, data: Any) -> None:
        """Refuses what is no method's data, as far as can be said without building a part.

        Raises:
            ValueError: If it is not.
        """
        check_data(data, [field.name for field in fields(cls)])  # type: ignore[arg-type]

    def as_data(self) -> dict[str, Any]:
        """All that a result depends on, as plain values: numbers, names, and parts as ``{name: options}``."""
        names = [field.name for field in fields(self) if field.name not in CARRIED]  # type: ignore[arg-type]
        values = {name: getattr(self, name) for name in names}
        values = {name: value for name, value in values.items() if name not in LATER or value != LATER[name]}
        data = {name: value.as_data() if isinstance(value, Part) else value for name, value in values.items()}
        return data | said_of(self.transform, self.aggregation)

    @classmethod
    def applying(cls, data: Mapping[str, Any], mine: Self | None = None) -> Self:
        """What applies the records of a run, by the data in its file; what is absent has its default.

        Only registered parts are built. Where a part is another's, ``mine`` must have it.

        Args:
            data: From :meth:`as_data`; it may come from anyone.
            mine: A method that the user has named, which must be that of the data where records depend on it.

        Raises:
            ValueError: If the data are no method, this version cannot compute it, or ``mine`` is another.
        """
        cls.check_data(data)
        if mine is not None:
            differing = mine.differing(data)
            if differing is not None:
                raise ValueError(differing)
            return mine
        return cls(**values_of(data, needed(data)))

    def differing(self, data: Mapping[str, Any]) -> str | None:
        """What a record's update depends on that is another here than in the data, in words; None if nothing is."""
        mine, default = {**LATER, **self.as_data()}, {**LATER, **type(self)().as_data()}
        for name in dict.fromkeys((*applied(data), *applied(mine))):
            there, here = (filled(name, value) for value in (data.get(name, default[name]), mine[name]))
            if there != here:
                return f"{name} is {there} there and {here} here"
        return None
