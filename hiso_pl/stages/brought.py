"""Weights that other ranks hold, brought to the operators that take them: a network that is run uncut where it is cut.

Slow, as every forward pass sends the weights, and right whatever it does: all ranks run the same operators on the same
values, of which no more is here at a time than one operator takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from hiso_pl.zeroth_order.substitution import substituted

Fill = Callable[[int, Tensor], None]
"""Fills values of a parameter, by its position, on all ranks that hold the network together."""


@contextmanager
def bringing(parameters: Mapping[int, Tensor], fill: Fill) -> Iterator[None]:
    """Inside the block operators take brought values.

    Args:
        parameters: Those that are brought, by position, each in the type that it has now.
        fill: Brings them.
    """
    positions, tensors = list(parameters), list(parameters.values())

    def write(i: int, out: Tensor, rows: Tensor | None) -> None:
        values = tensors[i].data
        out.copy_((values if rows is None else values[rows]).view(out.shape))
        fill(positions[i], out)

    with substituted(tensors, write):
        yield
