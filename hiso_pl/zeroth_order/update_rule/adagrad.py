"""Adagrad's rule, on the round's direction."""

from __future__ import annotations

import torch
from torch import Tensor

from hiso_pl.zeroth_order.kernels.torch_ops import sqrt
from hiso_pl.zeroth_order.tensors import Target
from hiso_pl.zeroth_order.update_rule.base import UpdateRule
from hiso_pl.zeroth_order.update_rule.numbers import check_eps, fp32, pieces


class Adagrad(UpdateRule):
    r"""Adagrad: every element steps by the round's direction over the root of the sum of all its squares.

    With :math:`\Delta = \sum_k D_k`, elementwise:

    .. math:: v' = v + \Delta^2, \qquad x' = x - \eta\, \frac{\Delta}{\sqrt{v'} + \epsilon}

    from v = 0, every operation one fp32 rounding. Steps shrink with the rounds by themselves. lr is not that of the
    plain step.

    Source: Duchi et al., JMLR 2011; FedAdagrad of Reddi et al., arXiv 2003.00295, algorithm 2, with beta_1 = 0.

    Args:
        eps: Added to the root, outside of it.
    """

    plain_rate = False

    def __init__(self, eps: float = 1e-8) -> None:
        check_eps(eps)
        self.eps = eps

    def initial(self, parameter: Tensor, target: Target) -> dict[str, Tensor]:
        """A sum of zeros."""
        return {"sum_of_squares": torch.zeros_like(parameter, dtype=torch.float32, requires_grad=False)}

    def move(self, x: Tensor, direction: Tensor, lr: float, state: dict[str, Tensor], target: Target) -> None:
        """One step; each operation rounds once."""
        for values, delta, total in pieces(x, direction, state["sum_of_squares"]):
            total.add_(delta * delta)
            step = delta / sqrt(total).add_(fp32(self.eps))
            values.sub_(step.mul_(fp32(lr)))
