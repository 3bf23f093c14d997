"""The method as data, and back: only from the names listed here.

A file from someone else says which preconditioner and which update rule its run had. It gets those of this table or a
refusal; nothing is imported, and nothing else is built, because a file says so.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from hiso_pl.ledger.header import Header, Method, Part
from hiso_pl.zeroth_order import Diagonal, Identity, Momentum, PerTensor, Scalar, Sgd, ZerothOrderOptimizer
from hiso_pl.zeroth_order.kernels.base import NUMERICS, Backend
from hiso_pl.zeroth_order.philox import STREAM
from hiso_pl.zeroth_order.preconditioner import Preconditioner
from hiso_pl.zeroth_order.update_rule import UpdateRule

T = TypeVar("T")

PRECONDITIONERS: Mapping[str, type[Preconditioner]] = {
    cls.__name__: cls for cls in (Identity, Diagonal, Scalar, PerTensor)
}
UPDATE_RULES: Mapping[str, type[UpdateRule]] = {cls.__name__: cls for cls in (Sgd, Momentum)}


def method_of(optimizer: ZerothOrderOptimizer) -> Method:
    """An optimizer's method as data. Parts from outside the package are named, and their options left out."""
    group = optimizer.param_groups[0]
    return Method(
        local_steps=int(group["local_steps"]),
        difference=group["difference"],
        distribution=group["distribution"],
        preconditioner=_described(optimizer.preconditioner, PRECONDITIONERS),
        update_rule=_described(optimizer.update_rule, UPDATE_RULES),
        aggregation=type(optimizer.aggregation).__name__,
    )


def check_numbers(header: Header) -> None:
    """Refuses a ledger whose numbers this version would compute otherwise.

    Raises:
        ValueError: If stream or numerics have another number.
    """
    for name, number, mine in (("stream", header.stream, STREAM), ("numerics", header.numerics, NUMERICS)):
        if number != mine:
            raise ValueError(f"the ledger has {name}={number}, this version computes {name}={mine}")


def new_optimizer(
    header: Header, parameters: Sequence[tuple[str, nn.Parameter]], backend: Backend = "auto"
) -> ZerothOrderOptimizer:
    """An optimizer at round 0 that computes a header's method; learning rate, mu and P come with the records.

    Raises:
        ValueError: If this version cannot compute it.
    """
    check_numbers(header)
    method = header.method
    return ZerothOrderOptimizer(
        parameters,
        local_steps=method.local_steps,
        difference=method.difference,
        distribution=method.distribution,
        preconditioner=_built(method.preconditioner, PRECONDITIONERS, "preconditioner"),
        update_rule=_built(method.update_rule, UPDATE_RULES, "update_rule"),
        seed=header.seed,
        backend=backend,
        memory="low",
    )


def _described(part: object, known: Mapping[str, type[Any]]) -> Part:
    kind = type(part)
    if known.get(kind.__name__) is not kind:
        return Part(f"{kind.__module__}.{kind.__qualname__}", {})
    return Part(kind.__name__, {name: getattr(part, name) for name in inspect.signature(kind).parameters})


def _built(part: Part, known: Mapping[str, type[T]], what: str) -> T:
    if part.kind not in known:
        raise ValueError(
            f"the ledger's {what}={part.kind[:80]!r} is not one of {', '.join(known)}: "
            "a run with a part from outside the package cannot be replayed"
        )
    kind = known[part.kind]
    options = inspect.signature(kind).parameters
    for name, value in part.options.items():
        if name not in options:
            raise ValueError(f"the ledger's {what} {part.kind} has no option {name[:80]!r}")
        wanted = type(options[name].default)
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise ValueError(f"the ledger's {what}.{name}={value!r} must be a {wanted.__name__}")
    return kind(**part.options)
