r"""Probes: losses at displaced points, and the scalars they give.

.. math::

    g_{k,p} = \frac{f(x + \mu z) - f(x)}{\mu} \quad\text{or}\quad \frac{f(x + \mu z) - f(x - \mu z)}{2\mu}

Both are evaluated in float64 from fp32 losses and rounded to fp32 once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hiso_pl.zeroth_order.batched import BatchedPoints
from hiso_pl.zeroth_order.kernels import Kernels, Offset
from hiso_pl.zeroth_order.points import (
    NO_DRIFT,
    CastView,
    LeanPoints,
    Memory,
    Point,
    Points,
    WholePoints,
    Writer,
    check_compiled,
    checked,
    displacements_in_ulps,
    is_compiled,
    watched,
)
from hiso_pl.zeroth_order.preconditioner import Preconditioner
from hiso_pl.zeroth_order.streams import Site

log = logging.getLogger(__name__)

Loss = Callable[[int], Tensor]
"""A slot's loss: the local step k in, the scalar fp32 loss on that step's minibatch out."""

Difference = Literal["forward", "central"]


def directional_weights(scalars: NDArray[np.float32], directions: int) -> NDArray[np.float32]:
    """w = fp32(float64(g) / P), elementwise."""
    return (scalars.astype(np.float64) / directions).astype(np.float32)


class Plan(NamedTuple):
    """What a round's probes are.

    Attributes:
        sites: Each tensor's stream in this round.
        hessians: H of the round, for each tensor.
        mu: Size of the displacements.
        lr: Learning rate of the local moves.
        directions: P.
        local_steps: tau.
        difference: ``forward`` or ``central``.
    """

    sites: list[Site]
    hessians: list[Tensor | None]
    mu: float
    lr: float
    directions: int
    local_steps: int
    difference: Difference

    @property
    def offsets(self) -> list[Offset | None]:
        """Where a local step is probed, in order."""
        if self.difference == "forward":
            return [None, *(Offset(p, self.mu) for p in range(self.directions))]
        return [Offset(p, sign * self.mu) for p in range(self.directions) for sign in (1.0, -1.0)]

    @property
    def forwards(self) -> int:
        """Forwards of one slot."""
        return self.local_steps * len(self.offsets)

    def point(self, k: int, offset: Offset | None, drift: NDArray[np.float32]) -> Point:
        """The point at an offset from a slot's local point."""
        return Point(self.sites, self.hessians, self.lr, k, offset, drift)

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


class Probe:
    """Evaluates losses around a point.

    Args:
        parameters: The trainable parameters, in tensor order.
        kernels: What writes the displaced points.
        preconditioner: How directions are preconditioned.
        network: The module the parameters belong to, if known.
        memory: How much of a displaced point exists at a time.
        dtype: What displaced weights are stored in.
        per_forward: Points evaluated in one forward pass.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        kernels: Kernels,
        preconditioner: Preconditioner,
        network: nn.Module | None = None,
        memory: Memory = "fast",
        dtype: torch.dtype = torch.float32,
        per_forward: int = 1,
    ) -> None:
        if network is not None:
            check_compiled(network, memory, per_forward)
        self._parameters = parameters
        self._network = network
        self._memory = memory
        self._dtype = dtype
        self._writer = Writer(parameters, kernels, preconditioner)
        self._points: Points | None = None
        self._told = dtype == torch.float32
        self._batched = None
        if per_forward > 1:
            assert network is not None
            self._batched = BatchedPoints(parameters, self._writer, dtype, network, per_forward)

    @property
    def displacing_s(self) -> float:
        """Host time spent writing points so far."""
        return self._writer.seconds

    def at(self, point: Point) -> AbstractContextManager[None]:
        """The parameters stand at the point inside the block."""
        if point.at_x and self._dtype == torch.float32:
            return nullcontext()
        way = self._points
        if way is None or (way.partial and self._memory == "fast"):
            way = self._whole()  # as what is evaluated here may read otherwise than the losses do
        return way.at(point)

    def losses(
        self, losses: Sequence[Loss], k: int, drift: NDArray[np.float32], plan: Plan, chosen: Sequence[int]
    ) -> NDArray[np.float32]:
        """Losses of one local step of slots that stand at the same local point.

        Args:
            losses: One for each slot.
            k: The local step.
            drift: The weights of the slots' own earlier local steps, shape ``[k, P]``.
            plan: What to probe.
            chosen: Which of ``plan.offsets`` to evaluate.

        Returns:
            fp32, shape ``[slots, chosen]``.

        Raises:
            ValueError: If a loss is not one fp32 number.
        """
        every = [plan.point(k, offset, drift) for offset in plan.offsets]
        points = [every[i] for i in chosen]
        if not self._told:
            self._told = True
            self._warn_of_lost(plan)
        if self._batched is not None:
            return self._batched.losses([_At(loss, k) for loss in losses], every, chosen)
        way = self._learnt(lambda: losses[0](k), plan)
        reason = "it reads some in a way that cannot be followed"
        values: NDArray[np.float32] | None = None
        try:
            values = self._evaluate(way, losses, k, points)
        except (RuntimeError, IndexError) as error:
            if not way.partial:
                raise
            reason = str(error).strip().split("\n")[0]
        if values is None:
            return self._again(losses, k, points, reason)
        doubtful = [i for i, row in enumerate(values) if not np.isfinite(row).all()] if way.partial else []
        # NaN stands where a weight was not expected to be read: is this such a place, or the network's own NaN?
        doubtful = [i for i in doubtful if self._finite_at_x(losses[i], k)]
        if doubtful:
            found = self._again([losses[i] for i in doubtful], k, points, reason, values[doubtful])
            values = values.copy()
            values[doubtful] = found
        return values

    def _finite_at_x(self, loss: Loss, k: int) -> bool:
        with CastView(self._parameters, self._dtype).active(), torch.inference_mode():
            return bool(torch.isfinite(checked(loss(k))))

    def _again(
        self,
        losses: Sequence[Loss],
        k: int,
        points: Sequence[Point],
        reason: str,
        values: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Evaluates with all weights displaced whole, and stays with that if the result is another."""
        everything = self._whole()
        whole = self._evaluate(everything, losses, k, points)
        if values is None or not np.array_equal(whole, values, equal_nan=True):
            log.warning("All weights of %s are displaced whole: %s.", self._described(), reason)
            self._points = everything
        return whole

    def _evaluate(self, way: Points, losses: Sequence[Loss], k: int, points: Sequence[Point]) -> NDArray[np.float32]:
        rows = []
        for point in points:
            with way.at(point), torch.inference_mode():
                rows.append(torch.stack([checked(loss(k)) for loss in losses]))
        # one transfer to the host for all losses of the step
        return torch.stack(rows).cpu().numpy().T

    def _warn_of_lost(self, plan: Plan) -> None:
        """Says so if most displacements are too small for the type that displaced weights are stored in."""
        share = displacements_in_ulps(self._parameters, plan.hessians, plan.mu, self._dtype)
        if share < 1.0:
            log.warning(
                "mu=%g moves the median weight by %.2g units in the last place of %s, so most displacements are "
                "rounded away: raise mu, or compute in float32.",
                plan.mu,
                share,
                str(self._dtype).removeprefix("torch."),
            )

    def _whole(self) -> Points:
        return WholePoints(self._parameters, self._writer, self._dtype)

    def _described(self) -> str:
        return "the network" if self._network is None else type(self._network).__name__

    def _learnt(self, evaluate: Callable[[], object], plan: Plan) -> Points:
        """How points are made to be seen; found out by the first forward pass."""
        if self._points is None:
            lean = self._memory == "low"
            self._points = self._learn_lean(evaluate, plan) if lean else self._learn_rows(evaluate)
        return self._points

    def _learn_lean(self, evaluate: Callable[[], object], plan: Plan) -> Points:
        way = LeanPoints(self._parameters, self._writer, self._dtype)
        try:
            with way.at(plan.point(0, None, NO_DRIFT)):
                reads = watched(self._parameters, self._network, evaluate)
        except (RuntimeError, IndexError):
            return way  # the evaluation proper meets it again
        unseen = frozenset(range(len(self._parameters))) - reads.whole - reads.rows
        return LeanPoints(self._parameters, self._writer, self._dtype, unseen) if unseen else way

    def _learn_rows(self, evaluate: Callable[[], object]) -> Points:
        if self._network is None or is_compiled(self._network):
            return self._whole()
        with CastView(self._parameters, self._dtype).active():  # beside weights that are not trained, in the same type
            reads = watched(self._parameters, self._network, evaluate)
        return WholePoints(self._parameters, self._writer, self._dtype, frozenset(reads.rows - reads.whole))

    def pass_size(self, points: int) -> int:
        """Points of a step that one forward pass takes."""
        return 1 if self._batched is None else self._batched.pass_size(points)


class _At:
    """A slot's loss at one local step."""

    def __init__(self, loss: Loss, k: int) -> None:
        self._loss, self._k = loss, k

    def __call__(self) -> Tensor:
        return self._loss(self._k)
