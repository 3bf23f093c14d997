"""FedZO: FedAvg whose clients estimate their gradients by forward passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hiso_pl.first_order.method import DifferenceMethod
from hiso_pl.first_order.work import Task, Work
from hiso_pl.zeroth_order.frozen import Frozen
from hiso_pl.zeroth_order.kernels import select
from hiso_pl.zeroth_order.kernels.base import Backend
from hiso_pl.zeroth_order.options import check_choices, check_count, check_rank
from hiso_pl.zeroth_order.philox import MAX_DIRECTIONS
from hiso_pl.zeroth_order.plan import Difference, Plan, directional_weights
from hiso_pl.zeroth_order.points import NO_DRIFT
from hiso_pl.zeroth_order.preconditioner import Identity
from hiso_pl.zeroth_order.probe import Probe
from hiso_pl.zeroth_order.streams import Distribution, Site, check_matrix


@dataclass(frozen=True)
class FedZO(DifferenceMethod):
    r"""Clients take local zeroth-order steps, and x becomes the mean of their models.

    With minibatch k of client i and P directions of its own:

    .. math::
        g_p &= \big(f_k(x_i + \mu u_p) - f_k(x_i)\big) / \mu \\
        x_i &\leftarrow x_i - \eta_l \tfrac1P \textstyle\sum_p g_p u_p

    and :math:`x_{r+1} = x_r + \eta \Delta` as in FedAvg. The paper draws directions from the unit sphere and multiplies
    by d; here slot i draws u(r, k, i P + p) of ``stream: 1``, whose covariance is the same. What travels are models:
    with seeds shared a few scalars would do, which is DeComFL.

    Source: Fang et al. 2022, arXiv 2201.09531, algorithm 1 and equation 5.

    Args:
        mu: Size of the displacements.
        num_directions: Directions P that a client probes in a local step.
        difference: ``forward`` probes P + 1 points a local step, ``central`` 2 P.
        distribution: Elements of a direction are standard ``normal`` or ``rademacher`` signs, or its matrices are of
            ``low_rank``.
        rank: Rank of a direction of low rank, 1 to 8.
        backend: Kernels: ``auto``, ``reference``, ``numba``, ``triton`` or ``torch``. All give the same bits.

    Raises:
        ValueError: If an option cannot be.
    """

    lr: float = 1e-3
    mu: float = 1e-3
    num_directions: int = 5
    difference: Difference = "forward"
    distribution: Distribution = "normal"
    rank: int = 1
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        if not self.mu > 0.0:
            raise ValueError(f"mu={self.mu} must be finite and positive")
        check_count("num_directions", self.num_directions, MAX_DIRECTIONS)
        check_rank(self.rank, self.distribution)
        check_choices(difference=self.difference, distribution=self.distribution, backend=self.backend)

    @property
    def figures(self) -> Mapping[str, Any]:
        """See :class:`DifferenceMethod`."""
        return {"mu": self.mu, "num_directions": self.num_directions}

    @property
    def passes(self) -> int:
        """See :class:`DifferenceMethod`."""
        return self.num_directions + 1 if self.difference == "forward" else 2 * self.num_directions

    def check_rounds(self, cohort: int, rounds: range) -> None:
        """See :class:`~hiso_pl.zeroth_order.interfaces.MethodBase`."""
        check_count(
            f"num_directions x cohort={self.num_directions} x {cohort}", self.num_directions * cohort, MAX_DIRECTIONS
        )

    def work(self, parameters: Sequence[Tensor], seed: int, network: nn.Module | None) -> Work:
        """See :class:`DifferenceMethod`."""
        return ProbedSteps(parameters, self, seed, network)


class ProbedSteps(Work):
    """Local steps by the scalars of probes, along directions of the client's own.

    Args:
        parameters: The trainable parameters, in tensor order.
        method: What is probed.
        seed: The seed of the directions.
        network: The module the parameters belong to, if known.
    """

    def __init__(self, parameters: Sequence[Tensor], method: FedZO, seed: int, network: nn.Module | None) -> None:
        self._method, self._seed = method, seed
        self._kernels = select(method.backend, parameters[0].device)
        self._probe = Probe(parameters, self._kernels, Identity(), network=network)
        self._shapes = [p.shape for p in parameters]
        for t, shape in enumerate(self._shapes):
            if method.distribution == "low_rank" and len(shape) > 1:
                check_matrix(shape, f"tensor {t}")
        self.forwards = method.passes

    def __call__(self, task: Task) -> float:
        """See :class:`~hiso_pl.first_order.work.Work`."""
        method, first = self._method, None
        sites = [
            Site.of(self._seed, method.distribution, method.rank, t, shape, task.round)
            for t, shape in enumerate(self._shapes)
        ]
        plan = Plan(
            sites,
            Frozen([None] * len(sites)),
            method.mu,
            task.lr,
            method.num_directions,
            task.steps,
            method.difference,
            "client",
        ).of(task.slot)
        for k in range(task.steps):
            # the network stands at the client's own values, which are the base of every probe
            losses = self._probe.losses([task.loss], k, NO_DRIFT, plan, range(len(plan.offsets)))
            if first is None:
                first = float(plan.first_losses(losses)[0])
            weights = directional_weights(plan.scalars(losses)[0], method.num_directions)
            for site, x in zip(plan.sites, task.values, strict=True):
                moves = torch.empty_like(x)
                self._kernels.combine(moves, site, k, weights)
                x.sub_(moves * task.lr)
        assert first is not None
        return first
