"""Heavy-ball momentum."""

from __future__ import annotations

import torch
from torch import Tensor

from hiso_pl.zeroth_order.tensors import Target
from hiso_pl.zeroth_order.update_rule.base import UpdateRule
from hiso_pl.zeroth_order.update_rule.numbers import check_share, fp32


class Momentum(UpdateRule):
    """Heavy-ball momentum: ``v' = beta v + sum_k D_k``, ``x' = x - lr v'``.

    Args:
        beta: Share of the velocity that is kept, in [0, 1).
    """

    def __init__(self, beta: float = 0.9) -> None:
        check_share("beta", beta)
        self.beta = beta

    def initial(self, parameter: Tensor, target: Target) -> dict[str, Tensor]:
        """A velocity of zeros."""
        return {"momentum": torch.zeros_like(parameter, dtype=torch.float32, requires_grad=False)}

    def move(self, x: Tensor, direction: Tensor, lr: float, state: dict[str, Tensor], target: Target) -> None:
        """One step; each operation rounds once."""
        velocity = state["momentum"]
        velocity.mul_(fp32(self.beta))
        velocity.add_(direction)
        x.sub_(velocity * fp32(lr))
