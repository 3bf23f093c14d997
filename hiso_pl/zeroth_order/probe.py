"""Probes: losses at displaced points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hiso_pl.zeroth_order.batched import BatchedPoints
from hiso_pl.zeroth_order.kernels import Kernels
from hiso_pl.zeroth_order.losses import Loss, SameFunction, checked, checked_examples
from hiso_pl.zeroth_order.plan import Plan
from hiso_pl.zeroth_order.points import Memory, Point, Points
from hiso_pl.zeroth_order.precision import CastView
from hiso_pl.zeroth_order.preconditioner import Preconditioner
from hiso_pl.zeroth_order.sight import Sight
from hiso_pl.zeroth_order.watching import Watch


class Group(NamedTuple):
    """Slots that stand at the same local point, and probe the same points around it.

    Attributes:
        losses: One for each; at least one.
        drift: The weights of their own earlier local steps, shape ``[k, P]``.
        plan: What to probe.
    """

    losses: Sequence[Loss]
    drift: NDArray[np.float32]
    plan: Plan


class Probe(Sight):
    """Evaluates losses around a point.

    The first losses it evaluates are looked at more closely: how the forward pass reads the weights, by which points
    are made to be seen, and whether it is the same function each time.

    Args:
        parameters: The trainable parameters, in tensor order.
        kernels: What writes the displaced points.
        preconditioner: How directions are preconditioned.
        network: The module the parameters belong to, if known.
        memory: How much of a displaced point exists at a time.
        dtype: What displaced weights are stored in.
        per_forward: Points evaluated in one forward pass.
        per_example: Whether a loss is the losses of a minibatch's examples, each for itself.
        withheld: Whether losses are not to be told in errors.
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
        per_example: bool = False,
        withheld: bool = False,
    ) -> None:
        super().__init__(parameters, kernels, preconditioner, network, memory, dtype, per_forward)
        self._watch: Watch | None = None
        self._checked = False
        self._rows: Callable[[Tensor], Tensor] = checked_examples if per_example else _one_row
        self._withheld = withheld
        self._batched = None
        if per_forward > 1:
            assert network is not None
            self._batched = BatchedPoints(parameters, self._writer, dtype, network, per_forward, self._rows)

    @property
    def displacing_s(self) -> float:
        """Host time spent writing points so far."""
        return self._writer.seconds

    def pass_size(self, points: int) -> int:
        """Points of a step that one forward pass takes."""
        return 1 if self._batched is None else self._batched.pass_size(points)

    def losses(
        self, losses: Sequence[Loss], k: int, drift: NDArray[np.float32], plan: Plan, chosen: Sequence[int]
    ) -> NDArray[np.float32]:
        """Losses of one local step of slots that stand at the same local point; as :meth:`each`, of one number each.

        Returns:
            fp32, shape ``[slots, chosen]``.
        """
        return np.concatenate(self.each(losses, k, drift, plan, chosen))

    def together(self, groups: Sequence[Group], k: int, chosen: Sequence[int]) -> list[list[NDArray[np.float32]]]:
        """Losses of one local step, as :meth:`each`, of several groups of slots."""
        return [self.each(losses, k, drift, plan, chosen) for losses, drift, plan in groups]

    def each(
        self, losses: Sequence[Loss], k: int, drift: NDArray[np.float32], plan: Plan, chosen: Sequence[int]
    ) -> list[NDArray[np.float32]]:
        """Losses of one local step of slots that stand at the same local point, slot by slot.

        Args:
            losses: One for each slot; at least one.
            k: The local step.
            drift: The weights of the slots' own earlier local steps, shape ``[k, P]``.
            plan: What to probe.
            chosen: Which of ``plan.offsets`` to evaluate.

        Returns:
            fp32, shape ``[rows, chosen]`` of each slot, a row for each of its examples if losses are theirs, else one.

        Raises:
            ValueError: If a loss is not fp32 numbers of such a shape, or not the same function at each evaluation.
        """
        points = [plan.point(k, offset, drift) for offset in plan.offsets]
        function = None
        if not self._checked:
            if self._watch is None:
                self._watch = self._look(partial(losses[0], k), plan)
            written, random = self._watch.written.values(), self._watch.random
            function = SameFunction(self._at_x(losses[0], k, plan), self._network, written, random, self._withheld)
        if self._batched is not None:
            values = self._batched.losses([partial(loss, k) for loss in losses], points, chosen)
        else:
            values = self._values(losses, k, [points[i] for i in chosen])
        if function is not None:
            function.check(self._at_x(losses[0], k, plan))
            self._checked, self._watch = True, None
        return values

    def _at_x(self, loss: Loss, k: int, plan: Plan) -> NDArray[np.float32]:
        if self._batched is not None:
            return self._cast(loss, k).cpu().numpy().squeeze()
        return self._values([loss], k, [plan.x])[0].squeeze()

    def _cast(self, loss: Loss, k: int) -> Tensor:
        with CastView(self._parameters, self._dtype).active(), torch.inference_mode():
            return self._rows(loss(k))

    def _values(self, losses: Sequence[Loss], k: int, points: Sequence[Point]) -> list[NDArray[np.float32]]:
        """Losses at points; if it turns out that they were not seen as a whole, with all weights displaced whole."""
        way = self._points
        assert way is not None
        try:
            values = self._evaluate(way, losses, k, points)
        except (RuntimeError, IndexError) as error:
            if not way.partial:
                raise
            return self._again(losses, k, points, self._why_whole(error))
        doubtful = self._doubtful(losses, k, values) if way.partial else []
        if doubtful:
            reason = "it reads some in a way that cannot be followed"
            found = self._again([losses[i] for i in doubtful], k, points, reason, [values[i] for i in doubtful])
            for i, rows in zip(doubtful, found, strict=True):
                values[i] = rows
        return values

    def _doubtful(self, losses: Sequence[Loss], k: int, values: Sequence[NDArray[np.float32]]) -> list[int]:
        """The slots of which a loss is not finite, though it is at x: NaN stands where no weight was to be read."""
        odd = [~np.isfinite(rows).all(axis=1) for rows in values]
        return [
            i
            for i, rows in enumerate(odd)
            if rows.any() and np.isfinite(self._cast(losses[i], k).cpu().numpy())[rows].any()
        ]

    def _again(
        self,
        losses: Sequence[Loss],
        k: int,
        points: Sequence[Point],
        reason: str,
        values: Sequence[NDArray[np.float32]] | None = None,
    ) -> list[NDArray[np.float32]]:
        """Evaluates with all weights displaced whole, and stays with that if the result is another."""
        everything = self._whole(reason)
        whole = self._evaluate(everything, losses, k, points)
        if values is None or not all(map(partial(np.array_equal, equal_nan=True), whole, values)):
            self._stay_whole(everything, reason)
        return whole

    def _evaluate(
        self, way: Points, losses: Sequence[Loss], k: int, points: Sequence[Point]
    ) -> list[NDArray[np.float32]]:
        columns, sizes = [], [0]
        for point in points:
            with way.at(point), torch.inference_mode():
                values = [self._rows(loss(k)) for loss in losses]
                columns.append(torch.cat(values))
            sizes = [len(value) for value in values]
        # one transfer to the host for all losses of the step
        return np.split(torch.stack(columns).cpu().numpy().T, np.cumsum(sizes)[:-1])


def _one_row(loss: Tensor) -> Tensor:
    return checked(loss).reshape(1)
