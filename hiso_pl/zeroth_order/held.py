"""A network that several processes hold together: each has the values of some tensors, and absent ones of the others.

Positions, names and shapes are those of the whole network everywhere, so streams, digests and records are as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hiso_pl.errors import RunError

K = TypeVar("K")
V = TypeVar("V")


class ApartError(RunError):
    """Processes that hold a network together have different values of what several of them have.

    Attributes:
        key: What differs: of a tensor of the state its name and kind.
    """

    def __init__(self, message: str, key: Any) -> None:
        super().__init__(message)
        self.key = key


@runtime_checkable
class Held(Protocol):
    """What of the trained tensors is here, and what the processes that hold the others have found of theirs.

    Attributes:
        own: Positions of the tensors whose values are here. Several processes may have one; they keep it equal.
    """

    own: frozenset[int]

    def merged(self, found: Mapping[K, V]) -> dict[K, V]:
        """What all processes that hold the network together have found; all of them ask at the same time.

        Raises:
            ApartError: If two of them have found different things of one.
        """


def rows_of_all(held: Held, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """A row for each tensor, of which every process has computed those of its own, shape ``[tensors, ...]``."""
    found = held.merged({t: rows[t].tolist() for t in sorted(held.own)})
    return np.array([found[t] for t in range(len(rows))], dtype=np.float64)


def of_all(held: Held, names: Sequence[str], found: Mapping[tuple[str, str], V]) -> dict[tuple[str, str], V]:
    """Something of each tensor of the state, by name and kind, in the order that digests have."""
    place = {name: t for t, name in enumerate(names)}

    def order(key: tuple[str, str]) -> tuple[int, int, str]:
        name, kind = key
        return {"x": 0, "hessian": 1}.get(kind, 2), place[name], kind

    merged = held.merged(found)
    return {key: merged[key] for key in sorted(merged, key=order)}
