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
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hiso_pl.zeroth_order.batched import resolve
from hiso_pl.zeroth_order.client import Work
from hiso_pl.zeroth_order.interfaces import Aggregation, Exchange, LocalExchange, Mean, Slots, Transform
from hiso_pl.zeroth_order.kernels import Kernels, select
from hiso_pl.zeroth_order.kernels.base import Backend
from hiso_pl.zeroth_order.losses import Loss, check_evaluating
from hiso_pl.zeroth_order.options import (
    DTYPES,
    ComputeDtype,
    check_choices,
    check_count,
    check_directions_per_forward,
    check_numbers,
    check_same_shapes,
)
from hiso_pl.zeroth_order.philox import MAX_DIRECTIONS, check_seed
from hiso_pl.zeroth_order.plan import Difference, Plan, directional_weights
from hiso_pl.zeroth_order.points import Memory, Point
from hiso_pl.zeroth_order.preconditioner import Diagonal, Preconditioner
from hiso_pl.zeroth_order.probe import Probe
from hiso_pl.zeroth_order.record import RoundRecord, RoundReport
from hiso_pl.zeroth_order.schedule import Schedule
from hiso_pl.zeroth_order.streams import Distribution, Site, check_numel
from hiso_pl.zeroth_order.update import Update
from hiso_pl.zeroth_order.update_rule import Sgd, UpdateRule

T = TypeVar("T")


class ZerothOrderOptimizer(Optimizer):
    """HiSo and DeComFL, for one process or many.

    It owns x, H and the round counter, so a checkpoint of the optimizer carries them. In a plain loop::

        model.eval()
        optimizer = ZerothOrderOptimizer(model.named_parameters(), lr=1e-3)
        loss = optimizer.step(lambda: criterion(model(inputs), targets))

    All probes must see the same function. So the first round evaluates a loss at x three more times and refuses one
    that changes, or whose forward pass moves something; a network that is known is refused in training mode.

    Args:
        params: Parameters or (name, parameter) pairs, fp32, in the order that fixes their streams. Those that do not
            require a gradient are not to be given.
        lr: Learning rate eta. A torch scheduler may move it.
        mu: Size of the displacements.
        num_directions: Directions P probed in a local step.
        local_steps: Local steps tau of a client in a round.
        difference: ``forward`` probes P + 1 points a local step, ``central`` 2 P.
        distribution: Elements of a direction are standard ``normal`` or ``rademacher`` signs.
        preconditioner: Diagonal (HiSo) unless given; Identity is DeComFL; Scalar and PerTensor are the controls.
        update_rule: Sgd unless given, or Momentum.
        transform: What a client does to its scalars before the exchange; nothing unless given.
        aggregation: How the cohort's scalars are combined; Mean unless given.
        mu_schedule: How mu follows the round; constant unless given.
        num_directions_schedule: How P follows the round, rounded to an integer; constant unless given.
        seed: The 64-bit seed of the directions.
        exchange: The one collective of a round; a single process needs none.
        backend: Kernels: ``auto``, ``reference``, ``numba``, ``triton`` or ``torch``. All give the same bits.
        memory: ``fast`` keeps one more copy of the trainable parameters for displaced points; ``low`` displaces the
            weights of each operator while it runs, and does so again for every client. Both give the same bits.
        compute_dtype: What the forward passes of probes compute in, ``float32``, ``bfloat16`` or ``float16``;
            displaced weights are written in it, x and H stay fp32, and the loss must be computed from fp32 logits.
        directions_per_forward: Points evaluated in one forward pass, where a small part of a network is trained;
            ``auto`` decides by that part's size. Other numbers give the same scalars up to rounding.
        network: The module the parameters belong to. Told of it, probes leave embedding rows alone that a batch does
            not look up, and training mode is refused; more than one direction in a forward pass cannot do without.

    Raises:
        ValueError: If an option cannot be, or a parameter is not fp32.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        mu: float = 1e-3,
        num_directions: int = 5,
        local_steps: int = 1,
        difference: Difference = "forward",
        distribution: Distribution = "normal",
        preconditioner: Preconditioner | None = None,
        update_rule: UpdateRule | None = None,
        transform: Transform | None = None,
        aggregation: Aggregation | None = None,
        mu_schedule: Schedule | None = None,
        num_directions_schedule: Schedule | None = None,
        seed: int = 0,
        exchange: Exchange | None = None,
        backend: Backend = "auto",
        memory: Memory = "fast",
        compute_dtype: ComputeDtype = "float32",
        directions_per_forward: int | Literal["auto"] = 1,
        network: nn.Module | None = None,
    ) -> None:
        if isinstance(lr, Tensor):
            lr = float(lr)
        check_numbers(lr, mu, num_directions, local_steps)
        check_choices(
            difference=difference,
            distribution=distribution,
            backend=backend,
            memory=memory,
            compute_dtype=compute_dtype,
        )
        check_directions_per_forward(directions_per_forward, memory)
        defaults = {
            "lr": lr,
            "mu": mu,
            "num_directions": num_directions,
            "local_steps": local_steps,
            "difference": difference,
            "distribution": distribution,
            "seed": check_seed(seed),
            "round": 0,
        }
        super().__init__(params, defaults)
        if len(self.param_groups) != 1:
            raise ValueError(f"{len(self.param_groups)} parameter groups given; one H and one lr serve all: give one")
        self.preconditioner = preconditioner or Diagonal()
        self.update_rule = update_rule or Sgd()
        self.transform = transform
        self.aggregation = aggregation or Mean()
        self.mu_schedule = mu_schedule
        self.num_directions_schedule = num_directions_schedule
        self.exchange = exchange or LocalExchange()
        self.backend: Backend = backend
        self.memory: Memory = memory
        self.compute_dtype: ComputeDtype = compute_dtype
        self.directions_per_forward: int | Literal["auto"] = directions_per_forward
        self.network = network
        self.report: RoundReport | None = None
        self.record: RoundRecord | None = None
        self._intact = True
        self._kernels: Kernels | None = None
        self._probe: Probe | None = None
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
        """H for each tensor; the same tensor throughout where one is shared."""
        if self.preconditioner.shared:
            return [self.state[self.parameters[0]].get("hessian")] * len(self.parameters)
        return [self.state[p].get("hessian") for p in self.parameters]

    @property
    def stored_hessians(self) -> list[Tensor]:
        """H where stored, each once, in tensor order."""
        stored = self.hessians[:1] if self.preconditioner.shared else self.hessians
        return [h for h in stored if h is not None]

    def _create_state(self) -> None:
        for i, parameter in enumerate(self.parameters):
            state = self.state[parameter]
            hessian = self.preconditioner.initial(parameter) if i == 0 or not self.preconditioner.shared else None
            if hessian is not None:
                state["hessian"] = hessian
            state.update(self.update_rule.initial(parameter))

    def _tools(self) -> tuple[Kernels, Probe]:
        if self._kernels is None or self._probe is None:
            devices = {p.device for p in self.parameters}
            if len(devices) != 1:
                raise ValueError(f"parameters are on {sorted(map(str, devices))}; all must be on one device")
            self._kernels = select(self.backend, devices.pop())
            self._probe = Probe(
                self.parameters,
                self._kernels,
                self.preconditioner,
                network=self.network,
                memory=self.memory,
                dtype=DTYPES[self.compute_dtype],
                per_forward=self.points_per_forward(),
            )
        return self._kernels, self._probe

    def points_per_forward(self) -> int:
        """``directions_per_forward`` as a number.

        Raises:
            ValueError: If it is not 1 and the network is not known.
        """
        if self.directions_per_forward == 1:
            return 1
        if self.network is None:
            raise ValueError(
                f"directions_per_forward={self.directions_per_forward} needs network=, the module that is trained"
            )
        # of the number of directions itself, not of a schedule's: a resumed run must find the same
        directions = int(self._group["num_directions"])
        return resolve(
            self.directions_per_forward,
            points=directions + 1 if self._group["difference"] == "forward" else 2 * directions,
            trained=sum(p.numel() for p in self.parameters),
            total=sum(p.numel() for p in self.network.parameters()),
        )

    def at_base(self, evaluate: Callable[[], T]) -> T:
        """Evaluates something of the network at x as a round's base loss is evaluated: in ``compute_dtype``."""
        _, probe = self._tools()
        return probe.at_base(Point(self._sites(self.round), self.hessians), evaluate)

    def _sites(self, round: int) -> list[Site]:
        seed, distribution = self._group["seed"], self._group["distribution"]
        return [Site(seed, distribution, t, round) for t in range(len(self.parameters))]

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

        Args:
            closure: The loss of this process's one client, on the same minibatch however often it is called.
            losses: One for each slot hosted here, each a callable of the local step; taken before the closure. A
                process that hosts none gives an empty list, and takes part in the exchange.
            slots: Where these losses belong; without it, the exchange says.

        Returns:
            The cohort's mean loss at the start of the round, over the slots present, fp32; NaN if none is.

        Raises:
            ValueError: If neither losses nor closure are given, their number is not that of the slots, or one is not
                the same function each time it is evaluated.
            RuntimeError: If a module of the network, where it is known, is in training mode.
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

        work = Work(probe, plan, losses, slots, self.exchange, self.transform)
        displacing = probe.displacing_s
        started = time.perf_counter()
        sent, first = work.shared() if slots.shares else work.alone()
        probe_s = time.perf_counter() - started - work.exchange_s

        started = time.perf_counter()
        record = self._aggregate(sent, slots, plan)
        self.apply(record)
        update_s = time.perf_counter() - started

        present = np.ones(slots.size, dtype=bool)
        present[list(record.dropped)] = False
        loss = math.fsum(first[present].tolist()) / int(present.sum()) if present.any() else None
        self.report = RoundReport(
            round=record.round,
            loss=loss,
            scalars=record.scalars,
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
        group, round = self._group, self.round
        mu, directions = float(group["mu"]), int(group["num_directions"])
        if self.mu_schedule is not None:
            mu = float(self.mu_schedule(mu, round))
        if self.num_directions_schedule is not None:
            directions = math.floor(self.num_directions_schedule(directions, round) + 0.5)
            check_count(f"num_directions in round {round}", directions, MAX_DIRECTIONS)
        if not (mu > 0.0 and math.isfinite(mu)):
            raise ValueError(f"mu={mu} in round {round} must be finite and positive: see mu_schedule")
        lr, tau = float(group["lr"]), int(group["local_steps"])
        return Plan(self._sites(round), self.hessians, mu, lr, directions, tau, group["difference"])

    def _aggregate(self, sent: np.ndarray, slots: Slots, plan: Plan) -> RoundRecord:
        present = np.isfinite(sent).all(axis=(1, 2))
        scalars = np.zeros(sent.shape[1:], dtype=np.float32)
        if present.any():
            scalars = self.aggregation(sent, present, np.array(slots.weights, dtype=np.float64))
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
        """
        self._check_intact()
        if record.round != self.round:
            raise ValueError(f"record of round {record.round} given, round {self.round} comes next")
        self._intact = False  # until the last tensor is done: a state in between is never written
        if not record.empty:
            self._update(record)
        self.record = record
        self._group["round"] = record.round + 1
        self._intact = True

    def _update(self, record: RoundRecord) -> None:
        kernels, _ = self._tools()
        step = Update(
            kernels=kernels,
            preconditioner=self.preconditioner,
            rule=self.update_rule,
            weights=directional_weights(record.scalars, record.scalars.shape[1]),
            lr=record.lr,
        )
        states = [{k: v for k, v in self.state[p].items() if k != "hessian"} for p in self.parameters]
        step.run(self.parameters, self.hessians, states, self._sites(record.round))

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
        configured = {key: value for key, value in self._group.items() if key not in ("params", "round", "lr")}
        saved = state_dict["param_groups"][0]
        for key in ("seed", "distribution"):
            if saved.get(key) != configured[key]:
                raise ValueError(
                    f"{key}={configured[key]!r} configured, but the state was made with {saved.get(key)!r}"
                )
        for i, (name, parameter) in enumerate(zip(self.names, self.parameters, strict=True)):
            check_same_shapes(name, state_dict["state"].get(i, {}), self.state[parameter])
        super().load_state_dict(state_dict)
        self._group.update(configured)
        self._intact = True
