"""An update that a record has decided, and that is done tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.zeroth_order.frozen import Frozen
from hiso_pl.zeroth_order.record import RoundRecord
from hiso_pl.zeroth_order.streams import Site
from hiso_pl.zeroth_order.tensors import Target
from hiso_pl.zeroth_order.update import Moving, Update


class Given(NamedTuple):
    """A tensor with what is kept beside it, where it is worked on.

    Attributes:
        x: The parameter.
        hessian: H.
        state: What the rule keeps.
    """

    x: Tensor
    hessian: Tensor | None
    state: dict[str, Tensor]

    def kept(self) -> dict[str, Tensor]:
        """What is kept beside the parameter, by kind."""
        return self.state if self.hessian is None else {"hessian": self.hessian, **self.state}

    def tensors(self) -> list[Tensor]:
        """All of it."""
        return [self.x, *self.kept().values()]

    def at(self, place: Callable[[Any], Any]) -> Given:
        """What stands for each in another place."""
        return Given(place(self.x), place(self.hessian), {kind: place(value) for kind, value in self.state.items()})


@dataclass
class Outstanding:
    """What is still to be done of a round's update.

    Attributes:
        record: The round's record.
        step: The update that it makes.
        frozen: H of the round.
        sites: Each tensor's stream in the round.
        targets: All tensors, and the round.
        left: Positions of the tensors that have not moved yet.
    """

    record: RoundRecord
    step: Update
    frozen: Frozen
    sites: Sequence[Site]
    targets: Sequence[Target]
    left: set[int]
    _squares: dict[int, NDArray[np.float64]] = field(default_factory=dict)

    def move(self, tensors: Mapping[int, Given]) -> None:
        """Moves some of the tensors that are left, by position."""
        structured = self.step.preconditioner.structured
        moving = []
        for t, (x, hessian, state) in tensors.items():
            divisor = self.frozen.hessians[t] if structured else hessian  # H itself, where it is worked on
            moving.append(Moving(x, hessian, divisor, state, self.sites[t], self.targets[t]))
        rows = self.step.run(moving)
        if self.step.preconditioner.uses_squares:
            self._squares.update(zip(tensors, rows, strict=True))
        self.left.difference_update(tensors)

    def end(self, hessians: Sequence[Tensor | None]) -> None:
        """Advances what stands for several tensors, once all have moved.

        Args:
            hessians: H of each tensor.
        """
        none = np.zeros(len(self.step.weights))
        rows = np.stack([self._squares.get(t, none) for t in range(len(self.targets))])
        self.step.advance_together(hessians, rows, self.targets)
