r"""The optimizer: probes, exchanges a handful of scalars, and rebuilds the same update on every process.

A round r, on every process:

.. math::

    z &= H_r^{-1/2} u(r,k,p) \\
    g_{slot,k,p} &= \big(f(x + \mu z) - f(x)\big) / \mu \qquad\text{exchanged and aggregated to } \hat g \\
    D_k &= \tfrac1P \textstyle\sum_p \hat g_{k,p}\, z_{k,p} \\
    x_{r+1} &= x_r - \eta \textstyle\sum_k D_k \\
    H_{r+1} &= \max\big((1-\nu) H_r + \nu (D_{\tau-1}^2 + \epsilon),\ \mathrm{floor}\big)

with the same frozen :math:`H_r` in every line. With :class:`~.preconditioner.Identity` this is DeComFL.

Source: HiSo, arXiv 2506.02370, algorithm 2; DeComFL, arXiv 2405.15861.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from hiso_pl.zeroth_order.applied import AppliedRecords
from hiso_pl.zeroth_order.batched import resolve
from hiso_pl.zeroth_order.carried import Carried, CarriedProbe
from hiso_pl.zeroth_order.client import Work
from hiso_pl.zeroth_order.decision import aggregated, attacked
from hiso_pl.zeroth_order.interfaces import Exchange, LocalExchange, Slots, new_optimizer
from hiso_pl.zeroth_order.linked import LinkedProbe, Links
from hiso_pl.zeroth_order.losses import Loss, check_evaluating, forward_only
from hiso_pl.zeroth_order.method import Method
from hiso_pl.zeroth_order.plan import Plan
from hiso_pl.zeroth_order.points import Point
from hiso_pl.zeroth_order.probe import Probe
from hiso_pl.zeroth_order.record import RoundReport
from hiso_pl.zeroth_order.staged import Cuts, StagedProbe

T = TypeVar("T")


class ZerothOrderOptimizer(AppliedRecords):
    """HiSo and DeComFL, for one process or many.

    It owns x, H and the round counter, so a checkpoint of the optimizer carries them. In a plain loop::

        optimizer = ZerothOrderOptimizer(model.eval().named_parameters(), lr=1e-3)
        loss = optimizer.step(lambda: criterion(model(inputs), targets))

    All probes must see the same function. So the first round evaluates a loss at x three more times, refuses one that
    changes or whose forward pass moves something, and a network that is known is refused in training mode at any time.

    Args:
        params: Parameters or (name, parameter) pairs, fp32, in the order that fixes their streams. Those that do not
            require a gradient are not to be given.
        method: What a round computes.
        seed: The 64-bit seed of the directions.
        exchange: The one collective of a round; a single process needs none.
        network: The module the parameters belong to. Told of it, probes leave embedding rows alone that a batch does
            not look up, and training mode is refused; more than one direction in a forward pass cannot do without.
        stages: The network's stages, where probes are to go through it one stage at a time, here or process by process.
        keep: Where tensors of the state live: given one it gives another of the same values; as they are made if None.
        deferred: Whether updates may wait, see :class:`~.applied.AppliedRecords`: then who reads the parameters
            otherwise calls :meth:`complete` before.
        options: Fields of :class:`~.method.Method`, in place of those of ``method``.

    Attributes:
        report: What the last round looked like.
        record: What the last round decided.

    Raises:
        ValueError: If an option cannot be, or a parameter is not fp32.
    """

    def __init__(
        self,
        params: Iterable[Any],
        method: Method | None = None,
        *,
        seed: int = 0,
        exchange: Exchange | None = None,
        network: nn.Module | None = None,
        stages: Cuts | None = None,
        keep: Callable[[Tensor], Tensor] | None = None,
        deferred: bool = False,
        **options: Any,
    ) -> None:
        if method is not None and not isinstance(method, Method):
            raise ValueError(f"method={method!r} must be a Method; options such as lr are given by name")
        held = stages if isinstance(stages, Links) else None
        method = Method(**options) if method is None else replace(method, **options)
        place = stages.place if isinstance(stages, Carried) else None
        super().__init__(params, method, seed, deferred and stages is not None, keep=keep, held=held, place=place)
        self.exchange = exchange or LocalExchange()
        self.network, self.stages = network, stages
        self.report: RoundReport | None = None
        self._learnt: Probe | None = None

    def _probe(self) -> Probe:
        if self._learnt is None:
            self._learnt = self._kind_of_probe()(
                self.parameters,
                self._kernels(),
                self.method.preconditioner,
                network=self.network,
                memory=self.method.memory,
                dtype=self.method.dtype,
                per_forward=self.points_per_forward(),
                per_example=self.method.per_example,
                withheld=self.method.withholds_losses,
            )
        return self._learnt

    def _kind_of_probe(self) -> Callable[..., Probe]:
        if self.stages is None:
            return Probe
        if isinstance(self.stages, Links):
            return partial(LinkedProbe, self, self.stages)
        if isinstance(self.stages, Carried):
            return partial(CarriedProbe, self, self.stages)
        return partial(StagedProbe, self, self.stages)

    def points_per_forward(self) -> int:
        """``directions_per_forward`` as a number.

        Raises:
            ValueError: If it is not 1 and the network is not known.
        """
        method = self.method
        if method.directions_per_forward == 1:
            return 1
        if self.network is None:
            raise ValueError(
                f"directions_per_forward={method.directions_per_forward} needs network=, the module that is trained"
            )
        # of the number of directions itself, not of a schedule's: a resumed run must find the same
        count = method.num_directions
        return resolve(
            method.directions_per_forward,
            points=count + 1 if method.difference == "forward" else 2 * count,
            trained=sum(p.numel() for p in self.parameters),
            total=sum(p.numel() for p in self.network.parameters()),
        )

    def at_base(self, evaluate: Callable[[], T]) -> T:
        """Evaluates something of the network at x as a round's base loss is evaluated: in ``compute_dtype``."""
        self.complete()
        return self._probe().at_base(Point(self._sites(self.round), self.hessians), evaluate)

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

        1. **Probe** (:class:`~.client.Work`): each own slot evaluates its losses at displaced points, and forms scalars
           of them; with several local steps it moves locally in between, by its own scalars.
        2. **Privacy, transform**: what a client does to its scalars before they leave it.
        3. **Exchange**: own rows in, the rows of all slots out, the same on every process; here a simulated attack
           puts its own in place of hostile clients'.
        4. **Aggregate**: the slots whose scalars are finite become one set, of m P directions where each slot has its
           own; with lr, mu and the slots dropped that is the :class:`~.record.RoundRecord`.
        5. **Apply**: :meth:`apply` rebuilds the directions and moves x, H and the rule's state, by the record alone.

        Args:
            closure: The loss of this process's one client, on the same minibatch however often it is called.
            losses: One for each slot hosted here, each a callable of the local step; taken before the closure. A
                process that hosts none gives an empty list, and takes part in the exchange. Where each example is
                private a loss is one number for each, and ``losses.no_examples`` where a minibatch has none.
            slots: Where these losses belong; without it, the exchange says. Where each example is private it says how
                many a minibatch is expected to have.

        Returns:
            The cohort's mean loss at the start of the round, over the slots present, fp32; NaN if none is, or if
            losses are withheld.

        Raises:
            ValueError: If neither losses nor closure are given, their number is not that of the slots, one is not the
                same function each time it is evaluated, or calls ``backward()``; if it is not known how much noise
                makes scalars private.
            RuntimeError: If a module of the network, where it is known, is in training mode.
            NotFiniteError: If the update leads to a state that is not finite.
        """
        if self.network is not None:
            check_evaluating(self.network)
        if losses is None:
            if closure is None:
                raise ValueError("step() needs a closure or losses=[...]: the loss is evaluated several times a round")
            losses = [forward_only(closure)]
        slots = slots or self.exchange.slots(len(losses))
        if len(losses) != len(slots.own):
            raise ValueError(f"{len(losses)} losses given for {len(slots.own)} slots")
        self.method.check_rounds(slots.size, range(self.round, self.round + 1))
        plan = self.plan()
        probe = self._probe()

        work = Work(probe, plan, losses, slots, self.exchange, self.method, self.record, self.transform_state)
        displacing, moving = probe.displacing_s, self._moving_s
        started = time.perf_counter()
        sent, first = work.shared() if slots.shares else work.alone()
        sent[list(slots.absent)] = first[list(slots.absent)] = np.nan
        moved_s = self._moving_s - moving  # what the round before has left to this one's probes
        probe_s = time.perf_counter() - started - work.exchange_s - moved_s

        started = time.perf_counter()
        sent, hostile = attacked(self.method, plan, slots, sent, self.record, self.transform_state)
        record = aggregated(self.method, plan, slots, sent, self._lr)
        self.apply(record)
        update_s = time.perf_counter() - started + moved_s

        present = np.isfinite(first)
        present[list(record.dropped)] = False
        loss = math.fsum(first[present].tolist()) / int(present.sum()) if present.any() else None
        self.report = RoundReport(
            round=record.round,
            loss=loss,
            scalars=record.scalars,
            clients=slots.clients,
            dropped=record.dropped,
            lr=record.lr,
            mu=record.mu,
            num_directions=plan.num_directions,
            probe_s=probe_s,
            update_s=update_s,
            forwards=plan.forwards * (slots.size - len(slots.absent)),
            bits=self.method.bits(slots.size, plan.num_directions),
            sent=sent,
            slot_losses=first,
            displace_s=probe.displacing_s - displacing,
            exchange_s=work.exchange_s,
            figures={} if self.method.attack is None else {"scalar/hostile": float(len(hostile))},
            absent=slots.absent,
            hostile=hostile,
        )
        return torch.tensor(math.nan if loss is None else loss, dtype=torch.float32)

    @property
    def _lr(self) -> float:
        """The round's learning rate, where schedulers put it."""
        return float(self._group["lr"])

    def plan(self) -> Plan:
        """What the round that comes next probes."""
        method, round = self.method, self.round
        return Plan(
            self._sites(round),
            self._frozen(),
            method.mu_at(round),
            self._lr if method.local_lr is None else method.local_lr,
            method.num_directions_at(round),
            method.local_steps,
            method.difference,
            method.directions,
        )


@new_optimizer.register
def _(
    method: Method,
    params: Iterable[Any],
    *,
    seed: int,
    **options: Any,
) -> ZerothOrderOptimizer:
    return ZerothOrderOptimizer(params, method, seed=seed, **options)
