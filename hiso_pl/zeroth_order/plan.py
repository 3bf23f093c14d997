r"""What a round's probes are, and the scalars that their losses give.

.. math::

    g_{k,p} = \frac{f(x + \mu z) - f(x)}{\mu} \quad\text{or}\quad \frac{f(x + \mu z) - f(x - \mu z)}{2\mu}

Both are evaluated in float64 from fp32 losses and rounded to fp32 once.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.frozen import Frozen
from hiso_pl.zeroth_order.kernels import Offset
from hiso_pl.zeroth_order.points import NO_DRIFT, Point
from hiso_pl.zeroth_order.streams import Site

Difference = Literal["forward", "central"]
Directions = Literal["shared", "client"]


def directional_weights(scalars: NDArray[np.float32], num_directions: int) -> NDArray[np.float32]:
    """w = fp32(float64(g) / P), elementwise."""
    return (scalars.astype(np.float64) / num_directions).astype(np.float32)


class Plan(NamedTuple):
    """What a round's probes are.

    Attributes:
        sites: Each tensor's stream in this round.
        frozen: H of the round.
        mu: Size of the displacements.
        lr: Learning rate of the local moves.
        num_directions: P.
        local_steps: tau.
        difference: ``forward`` or ``central``.
        directions: ``shared`` if all slots probe directions 0 to P - 1, ``client`` if slot i probes i P to i P + P - 1.
    """

    sites: list[Site]
    frozen: Frozen
    mu: float
    lr: float
    num_directions: int
    local_steps: int
    difference: Difference
    directions: Directions = "shared"

    @property
    def x(self) -> Point:
        """The round's x, from which every local point is told."""
        return self.point(0, None, NO_DRIFT)

    @property
    def offsets(self) -> list[Offset | None]:
        """Where a local step is probed, in order."""
        if self.difference == "forward":
            return [None, *(Offset(p, self.mu) for p in range(self.num_directions))]
        return [Offset(p, sign * self.mu) for p in range(self.num_directions) for sign in (1.0, -1.0)]

    @property
    def forwards(self) -> int:
        """Forwards of one slot."""
        return self.local_steps * len(self.offsets)

    def of(self, slot: int) -> Plan:
        """What a slot probes: directions of its own, unless they are shared."""
        if self.directions == "shared":
            return self
        return self._replace(sites=[site._replace(first=slot * self.num_directions) for site in self.sites])

    def point(self, k: int, offset: Offset | None, drift: NDArray[np.float32]) -> Point:
        """The point at an offset from a slot's local point."""
        if offset is not None:
            offset = offset._replace(mu=offset.mu * self.frozen.scale)
        return Point(self.sites, self.frozen.hessians, self.lr, k, offset, self.frozen.carried(drift))

    def scalars(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The scalars of losses in the order of :attr:`offsets`: the last dimension goes from points to directions."""
        wide = values.astype(np.float64)
        with np.errstate(all="ignore"):
            if self.difference == "forward":
                g = (wide[..., 1:] - wide[..., :1]) / self.mu
            else:
                g = (wide[..., 0::2] - wide[..., 1::2]) / (2.0 * self.mu)
            return g.astype(np.float32)

    def first_losses(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The loss that a slot starts from, by the first step's losses: for the log."""
        with np.errstate(all="ignore"):
            if self.difference == "forward":
                return values[..., 0]
            return values.astype(np.float64).mean(axis=-1).astype(np.float32)
