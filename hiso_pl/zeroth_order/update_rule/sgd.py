"""The plain step."""

from __future__ import annotations

from torch import Tensor

from hiso_pl.zeroth_order.tensors import Target
from hiso_pl.zeroth_order.update_rule.base import UpdateRule
from hiso_pl.zeroth_order.update_rule.numbers import fp32


class Sgd(UpdateRule):
    """The plain step ``x' = x - lr * sum_k D_k``, taken inside the update kernel."""

    fused = True

    def move(self, x: Tensor, direction: Tensor, lr: float, state: dict[str, Tensor], target: Target) -> None:
        """The same step by buffer, for a structured preconditioner."""
        x.sub_(direction * fp32(lr))
