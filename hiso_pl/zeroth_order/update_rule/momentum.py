"""Heavy-ball momentum."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hiso_pl.zeroth_order.tensors import Target
from hiso_pl.zeroth_order.update_rule.base import UpdateRule


class Momentum(UpdateRule):
    """Heavy-ball momentum: ``v' = beta v + sum_k D_k``, ``x' = x - lr v'``.

    Args:
        beta: Share of the velocity that is kept, in [0, 1).
    """

    def __init__(self, beta: float = 0.9) -> None:
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"beta={beta} must be in [0, 1)")
        self.beta = beta

    def initial(self, parameter: Tensor, target: Target) -> dict[str, Tensor]:
        """A velocity of zeros."""
        return {"momentum": torch.zeros_like(parameter, dtype=torch.float32, requires_grad=False)}

    def move(self, x: Tensor, direction: Tensor, lr: float, state: dict[str, Tensor], target: Target) -> None:
        """One step; each operation rounds once."""
        velocity = state["momentum"]
        velocity.mul_(float(np.float32(self.beta)))
        velocity.add_(direction)
        x.sub_(velocity * float(np.float32(lr)))
