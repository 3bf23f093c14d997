"""D of a round: what its scalars make of its directions."""

from __future__ import annotations

import torch
from torch import Tensor

from hiso_pl.zeroth_order.kernels import select
from hiso_pl.zeroth_order.optimizer import ZerothOrderOptimizer
from hiso_pl.zeroth_order.plan import directional_weights
from hiso_pl.zeroth_order.record import RoundRecord


@torch.no_grad()
def direction_of(optimizer: ZerothOrderOptimizer, record: RoundRecord) -> list[Tensor]:
    """The sum of D over a round's local steps, by tensor; the optimizer stays as it is.

    Args:
        optimizer: Before the round: with the H that its directions have.
        record: The round's record.

    Raises:
        ValueError: If the record is of another round than comes next.
    """
    if record.round != optimizer.round:
        raise ValueError(f"record of round {record.round} given, round {optimizer.round} comes next")
    plan, preconditioner = optimizer.plan(), optimizer.method.preconditioner
    weights = plan.frozen.carried(directional_weights(record.scalars, record.scalars.shape[1]))
    kernels = select(optimizer.method.backend, optimizer.parameters[0].device)
    found = []
    for parameter, site, hessian in zip(optimizer.parameters, plan.sites, plan.frozen.hessians, strict=True):
        total, part = torch.zeros_like(parameter), torch.empty_like(parameter)
        for k, row in enumerate(weights):
            if parameter.numel():
                kernels.combine(part, site, k, row)
                total += part
        found.append(preconditioner.divide(total, hessian) if parameter.numel() else total)
    return found
