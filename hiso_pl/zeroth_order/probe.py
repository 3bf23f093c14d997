"""Probes: losses at displaced points."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hiso_pl.errors import RunError
from hiso_pl.zeroth_order.batched import BatchedPoints
from hiso_pl.zeroth_order.kernels import Kernels
from hiso_pl.zeroth_order.losses import Loss, SameFunction, checked, checked_examples
from hiso_pl.zeroth_order.out_of_memory import is_out_of_memory
from hiso_pl.zeroth_order.plan import Plan
from hiso_pl.zeroth_order.points import LeanPoints, Memory, Point, Points, WholePoints, Writer
from hiso_pl.zeroth_order.precision import CastView, displacements_in_ulps
from hiso_pl.zeroth_order.preconditioner import Preconditioner
from hiso_pl.zeroth_order.watching import Watch, check_compiled, is_compiled, uncompiled

log = logging.getLogger(__name__)

T = TypeVar("T")


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


class Probe:
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
        if network is not None:
            check_compiled(network, memory, per_forward)
        self._parameters = parameters
        self._network = network
        self._dtype = dtype
        self._writer = self._new_writer(parameters, kernels, preconditioner)
        self._points: Points | None = LeanPoints(parameters, self._writer, dtype) if memory == "low" else None
        self._watch: Watch | None = None
        self._checked = self._at_base_looked = False
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

    @torch.inference_mode(False)  # memory that is made in here serves rounds as well
    def at_base(self, x: Point, evaluate: Callable[[], T]) -> T:
        """Evaluates at x, in the type that probes compute in, what may read the weights otherwise than a loss does.

        It runs in inference mode, whether or not this is called there.

        Args:
            x: The round's x.
            evaluate: What to evaluate. The first time it may be run again, should that show how it is to be done.
        """
        way, evaluate = self._points, torch.inference_mode()(evaluate)
        if self._dtype == torch.float32:
            return evaluate()
        if isinstance(way, LeanPoints):
            try:
                return self._at_base_lean(way, x, evaluate)
            except (RuntimeError, IndexError) as error:
                reason = self._why_whole(error)
            way = self._whole(reason)
            with way.at(x):
                result = evaluate()
            self._stay_whole(way, reason)
            return result
        with CastView(self._parameters, self._dtype).active() if way is None or way.partial else way.at(x):
            return evaluate()

    def _at_base_lean(self, way: LeanPoints, x: Point, evaluate: Callable[[], T]) -> T:
        if not self._at_base_looked:
            watch = Watch(self._parameters)
            with way.at(x):
                result = watch.of(evaluate, self._network)
            self._at_base_looked = True
            if not way.keep(watch.unseen):
                return result
        with way.at(x):
            return evaluate()

    # How points are made to be seen, and whether they are

    def _look(self, evaluate: Callable[[], object], plan: Plan) -> Watch:
        """Finds out by one forward pass at x how points are made to be seen, and what else it does."""
        if self._dtype != torch.float32:
            self._warn_of_lost(plan)
        watch, rows = Watch(self._parameters), frozenset[int]()
        try:
            rows = self._watched(watch, evaluate, plan.x)
        except (RuntimeError, IndexError) as error:  # the evaluation proper meets it again, if it is not of the watch
            if is_out_of_memory(error):
                raise
        if self._batched is None:
            self._points = self._chosen(watch, rows)
        return watch

    def _watched(self, watch: Watch, evaluate: Callable[[], object], x: Point) -> frozenset[int]:
        """Evaluates at x under watch; which parameters are read by rows alone, and need not be displaced whole."""
        network = self._network
        marked = network if self._batched is None else None
        if isinstance(self._points, LeanPoints):
            with self._points.at(x), self._followed(watch):
                watch.of(evaluate, marked)
            self._points.keep(watch.unseen)
        elif network is None or not is_compiled(network):
            with CastView(self._parameters, self._dtype).active(), uncompiled(), self._followed(watch):
                watch.of(evaluate, marked)
            return frozenset(watch.rows - watch.whole) if network is not None else frozenset()
        return frozenset()

    def _followed(self, watch: Watch) -> AbstractContextManager[None]:
        """What the watched forward pass runs in."""
        return nullcontext()

    def _chosen(self, watch: Watch, rows: frozenset[int]) -> Points:
        """How points are made to be seen, by what the watch saw and which parameters are read by rows alone."""
        return self._points or WholePoints(self._parameters, self._writer, self._dtype, rows)

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

    def _whole(self, reason: str) -> Points:
        """Points with all weights displaced whole, where another way does not serve."""
        return WholePoints(self._parameters, self._writer, self._dtype)

    def _why_whole(self, error: Exception) -> str:
        """An error's first line, of one that may say that a forward pass cannot be followed."""
        if is_out_of_memory(error) or isinstance(error, RunError):  # such as a process that was lost
            raise error
        return str(error).strip().split("\n")[0]

    def _stay_whole(self, everything: Points, reason: str) -> None:
        self._points = everything
        network = "the network" if self._network is None else type(self._network).__name__
        log.warning("All weights of %s are displaced whole: %s.", network, reason)

    def _new_writer(self, *args: Any) -> Writer:
        """What writes points."""
        return Writer(*args)

    def _here(self) -> Sequence[int]:
        """Positions of the parameters whose values are here."""
        return range(len(self._parameters))

    def _warn_of_lost(self, plan: Plan) -> None:
        """Says so if most displacements are too small for the type that displaced weights are stored in."""
        here = self._here()
        frozen = plan.frozen._replace(hessians=[plan.frozen.hessians[t] for t in here])
        share = displacements_in_ulps([self._parameters[t] for t in here], frozen, plan.mu, self._dtype)
        if share < 1.0:
            log.warning(
                "mu=%g moves the median weight by %.2g units in the last place of %s, so most displacements are "
                "rounded away: raise mu, or compute in float32.",
                plan.mu,
                share,
                str(self._dtype).removeprefix("torch."),
            )


def _one_row(loss: Tensor) -> Tensor:
    return checked(loss).reshape(1)
