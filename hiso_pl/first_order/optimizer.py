r"""The optimizer of methods whose clients send differences of models.

A round, on every process:

.. math::

    \Delta_i &= x_i - x \qquad\text{client i's local steps from x, exchanged} \\
    \Delta &= \textstyle\sum_i n_i \Delta_i / \sum_i n_i \qquad\text{in slot order, in float64} \\
    x_{r+1} &= \mathrm{serve}(x_r, \Delta)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from hiso_pl.first_order.differences import Differences
from hiso_pl.first_order.method import DifferenceMethod
from hiso_pl.first_order.served import ServedDifferences
from hiso_pl.first_order.work import Task, Work
from hiso_pl.zeroth_order.interfaces import Exchange, LocalExchange, Slots, new_optimizer
from hiso_pl.zeroth_order.losses import Loss, SameFunction, check_evaluating, checked
from hiso_pl.zeroth_order.points import standing_at
from hiso_pl.zeroth_order.record import RoundReport

T = TypeVar("T")


class DifferenceOptimizer(ServedDifferences):
    """FedAvg and its kin, and FedZO, for one process or many.

    It owns x, what the method keeps beside it, and the round counter, so a checkpoint of the optimizer carries them.
    Clients work in a copy of x: x itself is not touched until all differences are known. The network is to be in
    evaluation mode, as it is where a scalar-only method probes it: both see the same function.

    Args:
        params: Parameters or (name, parameter) pairs, fp32. Those that do not require a gradient are not to be given.
        method: What a round computes.
        seed: The 64-bit seed of what clients draw.
        exchange: What carries differences between processes; a single process needs none.
        network: The module the parameters belong to.

    Attributes:
        report: What the last round looked like.
        record: None, as a round is not told by a few scalars.

    Raises:
        ValueError: If a parameter is not fp32.
    """

    record = None

    def __init__(
        self,
        params: Iterable[Any],
        method: DifferenceMethod,
        *,
        seed: int = 0,
        exchange: Exchange | None = None,
        network: nn.Module | None = None,
    ) -> None:
        if not isinstance(method, DifferenceMethod):
            raise ValueError(f"method={method!r} must be a DifferenceMethod, such as hiso_pl.first_order.FedAvg")
        super().__init__(params, method, seed)
        self.exchange = exchange or LocalExchange()
        self.network = network
        self.report: RoundReport | None = None
        self._checked = False
        self._made: Work | None = None

    @torch.inference_mode()
    def at_base(self, evaluate: Callable[[], T]) -> T:
        """Evaluates something of the network at x."""
        return evaluate()

    # A round

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closure: Callable[[], Tensor] | None = None,
        *,
        losses: Sequence[Loss] | None = None,
        slots: Slots | None = None,
    ) -> Tensor:
        """Runs one round.

        1. **Work** (:class:`~.work.Work`): each own slot's client takes its local steps in a copy of x.
        2. **Exchange** (:class:`~.differences.Differences`): who is there, and then their differences, in pieces.
        3. **Serve** (:meth:`~.method.DifferenceMethod.serve`): x and what is kept beside it move by the mean. A client
           whose loss or difference is not finite is left out; if all are, nothing moves.

        Args:
            closure: The loss of this process's one client, on the same minibatch however often it is called; it does
                not call ``backward()``.
            losses: One for each slot hosted here, each a callable of the local step; taken before the closure.
            slots: Where these losses belong; without it, the exchange says.

        Returns:
            The cohort's mean loss at the start of the round, over the slots present, fp32; NaN if none is.

        Raises:
            ValueError: If neither losses nor closure are given, their number is not that of the slots, ranks share a
                slot, or a loss is not the same function each time it is evaluated.
            RuntimeError: If a module of the network, where it is known, is in training mode.
            NotFiniteError: If the update leads to a state that is not finite.
        """
        self._check_intact()
        if self.network is not None:
            check_evaluating(self.network)
        if losses is None:
            if closure is None:
                raise ValueError("step() needs a closure or losses=[...]")
            once = closure
            losses = [lambda k: once()]
        slots = slots or self.exchange.slots(len(losses))
        self._check_slots(losses, slots)
        lr, round = float(self._group["lr"]), self.round
        server_lr = lr if self.method.server_lr is None else self.method.server_lr
        steps, work = slots.steps or (self.method.local_steps,) * slots.size, self._work

        started = time.perf_counter()
        differences = Differences([p.numel() for p in self.parameters], slots, self.exchange, self._weights(slots))
        for slot, loss in sorted(zip(slots.own, losses, strict=True), key=lambda pair: pair[0]):
            values = [p.detach().clone() for p in self.parameters]
            with standing_at(self.parameters, values):
                self._check_function(loss)
                first = work(Task(loss, steps[slot], lr, values, round, slot))
            for value, p in zip(values, self.parameters, strict=True):
                value.sub_(p)
            differences.add(slot, values, first)
            del values
        work_s = time.perf_counter() - started

        differences.meet()
        started, waited = time.perf_counter(), differences.exchange_s
        present = differences.present
        norm = self._apply(differences.means(self.parameters[0].device) if present.any() else (), lr, server_lr)
        update_s = time.perf_counter() - started - (differences.exchange_s - waited)

        found = differences.losses
        mean = math.fsum(found[present].tolist()) / int(present.sum()) if present.any() else None
        taken = sum(steps) - sum(steps[slot] for slot in slots.absent)
        bits = self.method.bits_at(round, slots.size, sum(p.numel() for p in self.parameters))
        self.report = RoundReport(
            round=round,
            loss=mean,
            scalars=None,
            clients=slots.clients,
            dropped=tuple(int(slot) for slot in np.flatnonzero(~present)),
            lr=lr,
            mu=self.method.figures.get("mu"),
            num_directions=self.method.figures.get("num_directions"),
            probe_s=work_s,
            update_s=update_s,
            forwards=work.forwards * taken,
            bits=bits,
            sent=None,
            slot_losses=found,
            exchange_s=differences.exchange_s,
            figures={"difference/norm": norm, "difference/client_norm": differences.norm} if present.any() else {},
            backwards=work.backwards * taken,
            absent=slots.absent,
        )
        return torch.tensor(math.nan if mean is None else mean, dtype=torch.float32)

    def _check_slots(self, losses: Sequence[Loss], slots: Slots) -> None:
        if len(losses) != len(slots.own):
            raise ValueError(f"{len(losses)} losses given for {len(slots.own)} slots")
        self.method.check_rounds(slots.size, range(self.round, self.round + 1))
        if self.method.local_epochs and not slots.steps:
            raise ValueError(
                f"local_epochs={self.method.local_epochs} needs slots with the steps that they are: hand it over by "
                "data.take(facts_of(module)) before the trainer starts"
            )
        if slots.shares:
            raise ValueError(
                f"{type(self.method).__name__} has each slot worked on by one process: data.spare_ranks must be idle"
            )

    def _weights(self, slots: Slots) -> Sequence[float]:
        if not self.method.weighted:
            return (1.0,) * slots.size
        if slots.weights is None:
            raise ValueError("weighted=True needs the examples of each client: step(slots=...) with weights")
        return slots.weights

    @property
    def _work(self) -> Work:
        if self._made is None:
            self._made = self.method.work(self.parameters, self._group["seed"], self.network)
        return self._made

    def _check_function(self, loss: Loss) -> None:
        """Sees to it, once, that a loss is the same function each time and moves no buffer."""
        if not self._checked:
            function = SameFunction(checked(loss(0)).cpu().numpy(), self.network, (), ())
            function.check(checked(loss(0)).cpu().numpy())
            self._checked = True


@new_optimizer.register
def _(
    method: DifferenceMethod,
    params: Iterable[Any],
    *,
    seed: int,
    exchange: Exchange | None = None,
    network: nn.Module | None = None,
) -> DifferenceOptimizer:
    return DifferenceOptimizer(params, method, seed=seed, exchange=exchange, network=network)
