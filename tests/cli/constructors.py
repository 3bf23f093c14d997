"""Parts whose constructors fail."""

from __future__ import annotations

from lightning.pytorch import Callback

from hiso_pl.federation import IID

ERRORS = {
    "Stops": StopIteration(),
    "Types": TypeError("unsupported operand"),
    "Keys": KeyError("weight"),
    "Values": ValueError("n=3 must be 4"),
    "Attributes": AttributeError("no such thing"),
    "Indices": IndexError("list index out of range"),
}


def _failing(base: type, name: str) -> type:
    def fail(self: object) -> None:
        raise ERRORS[name]

    kind = {Callback: "Callbacks", IID: "Partitions"}[base] + name
    return type(kind, (base,), {"__init__": fail, "__module__": __name__})


globals().update(
    {kind.__name__: kind for base in (Callback, IID) for name in ERRORS for kind in [_failing(base, name)]}
)
