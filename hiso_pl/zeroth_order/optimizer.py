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
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from hiso_pl.zeroth_order.batched import resolve
from hiso_pl.zeroth_order.client import Work
from hiso_pl.zeroth_order.digest import StateTensor, in_order
from hiso_pl.zeroth_order.interfaces import Exchange, LocalExchange, Slots, new_optimizer
from hiso_pl.zeroth_order.kernels import Kernels, select
from hiso_pl.zeroth_order.losses import Loss, check_evaluating
from hiso_pl.zeroth_order.method import Method
from hiso_pl.zeroth_order.options import check_same_shapes
from hiso_pl.zeroth_order.philox import check_seed
from hiso_pl.zeroth_order.plan import Plan, directional_weights
from hiso_pl.zeroth_order.points import Point
from hiso_pl.zeroth_order.probe import Probe
from hiso_pl.zeroth_order.record import RoundRecord, RoundReport
from hiso_pl.zeroth_order.streams import Site, check_numel
from hiso_pl.zeroth_order.tensors import Target, check_finite
from hiso_pl.zeroth_order.update import Update

T = TypeVar("T")


class ZerothOrderOptimizer(Optimizer):
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
        **options: Any,
    ) -> None:
        if method is not None and not isinstance(method, Method):
            raise ValueError(f"method={method!r} must be a Method; options such as lr are given by name")
        self.method = Method(**options) if method is None else replace(method, **options)
        defaults = {
            "lr": self.method.lr,
            "seed": check_seed(seed),
            "distribution": self.method.distribution,
            "round": 0,
            "applied": 0,
        }
        super().__init__(params, defaults)
        if len(self.param_groups) != 1:
            raise ValueError(f"{len(self.param_groups)} parameter groups given; one H and one lr serve all: give one")
        self.exchange = exchange or LocalExchange()
        self.network = network
        self.report: RoundReport | None = None
        self.record: RoundRecord | None = None
        self._intact = True
        self._tool: tuple[Kernels, Probe] | None = None
        for name, parameter in zip(self.names, self.parameters, strict=True):
            if parameter.dtype != torch.float32:
                raise ValueError(
                    f"parameter {name!r} is {parameter.dtype}; masters are fp32: load the model in float32"
                )
            check_numel(parameter.numel(), name)
        self._create_state()

    # What it works on

    @property
    def _group(self) -> dict[str, Any]:
        return self.param_groups[0]

    @property
    def parameters(self) -> list[Tensor]:
        """The trainable parameters, in tensor order."""
        return cast("list[Tensor]", self._group["params"])

    @property
    def names(self) -> list[str]:
        """Their names; numbers where none were given."""
        return self._group.get("param_names") or [f"parameter {i}" for i in range(len(self.parameters))]

    @property
    def round(self) -> int:
        """The round that comes next."""
        return int(self._group["round"])

    @property
    def hessians(self) -> list[Tensor | None]:
        """H for each tensor; the same tensor where several share one."""
        return [self.state[self.parameters[owner]].get("hessian") for owner in self._owners]

    @property
    def stored_hessians(self) -> list[Tensor]:
        """H where stored, each once, in tensor order."""
        return [state.value for state in self.tensors() if state.kind == "hessian"]

    def _rule_state(self, parameter: Tensor) -> dict[str, Tensor]:
        return {kind: value for kind, value in self.state[parameter].items() if kind != "hessian"}

    def _targets(self) -> list[Target]:
        pairs = enumerate(zip(self.names, self.parameters, strict=True))
        return [Target(t, name, tuple(p.shape), self.round, self._group["applied"]) for t, (name, p) in pairs]

    def tensors(self) -> list[StateTensor]:
        """x, H and the rule's state, each tensor once, in the order that digests and checksums have."""
        return in_order(self.names, self.parameters, [self.state[p] for p in self.parameters])

    def _create_state(self) -> None:
        preconditioner, targets = self.method.preconditioner, self._targets()
        self._owners = list(preconditioner.owners(targets))
        for t, (parameter, target) in enumerate(zip(self.parameters, targets, strict=True)):
            hessian = preconditioner.initial(parameter, target) if self._owners[t] == t else None
            if hessian is not None:
                self.state[parameter]["hessian"] = hessian
            self.state[parameter].update(self.method.update_rule.initial(parameter, target))
        if self._owners != list(range(len(targets))) and not preconditioner.uses_squares:
            raise ValueError(f"preconditioner={preconditioner!r} shares an H between tensors: it must use squares")

    def _tools(self) -> tuple[Kernels, Probe]:
        if self._tool is None:
            devices = {p.device for p in self.parameters}
            if len(devices) != 1:
                raise ValueError(f"parameters are on {sorted(map(str, devices))}; all must be on one device")
            kernels = select(self.method.backend, devices.pop())
            probe = Probe(
                self.parameters,
                kernels,
                self.method.preconditioner,
                network=self.network,
                memory=self.method.memory,
                dtype=self.method.dtype,
                per_forward=self.points_per_forward(),
            )
            self._tool = kernels, probe
        return self._tool

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
        directions = method.num_directions
        return resolve(
            method.directions_per_forward,
            points=directions + 1 if method.difference == "forward" else 2 * directions,
            trained=sum(p.numel() for p in self.parameters),
            total=sum(p.numel() for p in self.network.parameters()),
        )

    def at_base(self, evaluate: Callable[[], T]) -> T:
        """Evaluates something of the network at x as a round's base loss is evaluated: in ``compute_dtype``."""
        _, probe = self._tools()
        return probe.at_base(Point(self._sites(self.round), self.hessians), evaluate)

    def _sites(self, round: int) -> list[Site]:
        seed = self._group["seed"]
        return [Site(seed, self.method.distribution, t, round) for t in range(len(self.parameters))]

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
        2. **Transform**: what a client does to its scalars before they leave it.
        3. **Exchange**: own rows in, the rows of all slots out, the same on every process.
        4. **Aggregate**: the slots whose scalars are finite become one set; with lr, mu and the slots dropped that is
           the :class:`~.record.RoundRecord`.
        5. **Apply**: :meth:`apply` rebuilds the directions and moves x, H and the rule's state, by the record alone.

        Args:
            closure: The loss of this process's one client, on the same minibatch however often it is called.
            losses: One for each slot hosted here, each a callable of the local step; taken before the closure. A
                process that hosts none gives an empty list, and takes part in the exchange.
            slots: Where these losses belong; without it, the exchange says.

        Returns:
            The cohort's mean loss at the start of the round, over the slots present, fp32; NaN if none is, or if
            losses are withheld.

        Raises:
            ValueError: If neither losses nor closure are given, their number is not that of the slots, or one is not
                the same function each time it is evaluated.
            RuntimeError: If a module of the network, where it is known, is in training mode.
            NotFiniteError: If the update leads to a state that is not finite.
        """
        if self.network is not None:
            check_evaluating(self.network)
        if losses is None:
            if closure is None:
                raise ValueError("step() needs a closure or losses=[...]: the loss is evaluated several times a round")
            losses = [lambda k: closure()]
        slots = slots or self.exchange.slots(len(losses))
        if len(losses) != len(slots.own):
            raise ValueError(f"{len(losses)} losses given for {len(slots.own)} slots")
        plan = self._plan()
        _, probe = self._tools()

        work = Work(probe, plan, losses, slots, self.exchange, self.method.transform, self.record)
        displacing = probe.displacing_s
        started = time.perf_counter()
        sent, first = work.shared() if slots.shares else work.alone()
        probe_s = time.perf_counter() - started - work.exchange_s

        started = time.perf_counter()
        record = self._aggregate(sent, slots, plan)
        self.apply(record)
        update_s = time.perf_counter() - started

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
            directions=plan.directions,
            probe_s=probe_s,
            update_s=update_s,
            forwards=plan.forwards * slots.size,
            sent=sent,
            slot_losses=first,
            displace_s=probe.displacing_s - displacing,
            exchange_s=work.exchange_s,
        )
        return torch.tensor(math.nan if loss is None else loss, dtype=torch.float32)

    def _plan(self) -> Plan:
        method, round = self.method, self.round
        return Plan(
            self._sites(round),
            self.hessians,
            method.mu_at(round),
            float(self._group["lr"]),
            method.directions_at(round),
            method.local_steps,
            method.difference,
        )

    def _aggregate(self, sent: NDArray[np.float32], slots: Slots, plan: Plan) -> RoundRecord:
        present: NDArray[np.bool_] = np.asarray(np.isfinite(sent).all(axis=(1, 2)))
        scalars = np.zeros(sent.shape[1:], dtype=np.float32)
        if present.any():
            weights = None if slots.weights is None else np.array(slots.weights, dtype=np.float64)
            scalars = self.method.aggregation(sent, present, weights)
            if not np.isfinite(scalars).all():  # finite scalars so large that their combination is not
                present[:] = False
                scalars = np.zeros(sent.shape[1:], dtype=np.float32)
        dropped = tuple(int(s) for s in np.flatnonzero(~present))
        return RoundRecord(self.round, plan.lr, plan.mu, scalars, slots.size, dropped)

    @torch.no_grad()
    def apply(self, record: RoundRecord) -> None:
        """Moves x and H from one round to the next: a function of x, H and the record alone.

        This is the only code that changes them. Training, replay and catching up all call it.

        Args:
            record: The record of the round that comes next.

        Raises:
            ValueError: If the record is of another round.
            RuntimeError: If an earlier update was broken off, so that the state is of no round.
            NotFiniteError: If the update leads to a state that is not finite; then it is of no round.
        """
        self._check_intact()
        if record.round != self.round:
            raise ValueError(f"record of round {record.round} given, round {self.round} comes next")
        self._intact = False  # until the last tensor is done: a state in between is never written
        if not record.empty:
            self._update(record)
            check_finite(self.tensors(), record)
            self._group["applied"] += 1
        self.record = record
        self._group["round"] = record.round + 1
        self._intact = True

    def _update(self, record: RoundRecord) -> None:
        kernels, _ = self._tools()
        step = Update(
            kernels=kernels,
            preconditioner=self.method.preconditioner,
            rule=self.method.update_rule,
            weights=directional_weights(record.scalars, record.scalars.shape[1]),
            lr=record.lr,
        )
        states = [self._rule_state(p) for p in self.parameters]
        step.run(self.parameters, self.hessians, states, self._sites(record.round), self._targets())

    # Checkpoints

    def _check_intact(self) -> None:
        if not self._intact:
            raise RuntimeError(
                f"the update of round {self.round} was broken off, so x and H are of no round: go on from a checkpoint"
            )

    def state_dict(self) -> dict[str, Any]:
        """The state after the last round.

        Raises:
            RuntimeError: If an update was broken off.
        """
        self._check_intact()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores H, the rule's state, the round and the learning rate; the other options stay as configured.

        Raises:
            ValueError: If the state is of another model, seed or distribution of directions.
        """
        configured, saved = dict(self._group), state_dict["param_groups"][0]
        for key in ("seed", "distribution"):
            if saved.get(key) != configured[key]:
                raise ValueError(
                    f"{key}={configured[key]!r} configured, but the state was made with {saved.get(key)!r}"
                )
        for i, (name, parameter) in enumerate(zip(self.names, self.parameters, strict=True)):
            check_same_shapes(name, state_dict["state"].get(i, {}), self.state[parameter])
        super().load_state_dict(state_dict)
        self._intact = True


@new_optimizer.register
def _(
    method: Method,
    params: Iterable[Any],
    *,
    seed: int,
    exchange: Exchange | None = None,
    network: nn.Module | None = None,
) -> ZerothOrderOptimizer:
    return ZerothOrderOptimizer(params, method, seed=seed, exchange=exchange, network=network)
