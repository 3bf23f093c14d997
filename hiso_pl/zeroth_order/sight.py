"""How points are made to be seen by a network's forward passes, and whether they are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hiso_pl.errors import RunError
from hiso_pl.zeroth_order.kernels import Kernels
from hiso_pl.zeroth_order.out_of_memory import is_out_of_memory
from hiso_pl.zeroth_order.plan import Plan
from hiso_pl.zeroth_order.points import LeanPoints, Memory, Point, Points, WholePoints, Writer
from hiso_pl.zeroth_order.precision import CastView, displacements_in_ulps
from hiso_pl.zeroth_order.preconditioner import Preconditioner
from hiso_pl.zeroth_order.watching import Watch, check_compiled, is_compiled, uncompiled

log = logging.getLogger(__name__)

T = TypeVar("T")


class Sight:
    """Lets a network's forward passes see points, in the way that one of them has shown to be right.

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
        network: nn.Module | None,
        memory: Memory,
        dtype: torch.dtype,
        per_forward: int,
    ) -> None:
        if network is not None:
            check_compiled(network, memory, per_forward)
        self._parameters = parameters
        self._network = network
        self._dtype = dtype
        self._several = per_forward > 1
        self._writer = self._new_writer(parameters, kernels, preconditioner)
        self._points: Points | None = LeanPoints(parameters, self._writer, dtype) if memory == "low" else None
        self._at_base_looked = False

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
        if not self._several:
            self._points = self._chosen(watch, rows)
        return watch

    def _watched(self, watch: Watch, evaluate: Callable[[], object], x: Point) -> frozenset[int]:
        """Evaluates at x under watch; which parameters are read by rows alone, and need not be displaced whole."""
        network = self._network
        marked = None if self._several else network
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
