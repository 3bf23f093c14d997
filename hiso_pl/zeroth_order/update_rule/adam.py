"""Adam's rule, on the round's direction."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hiso_pl.zeroth_order.kernels.torch_ops import sqrt
from hiso_pl.zeroth_order.tensors import Target
from hiso_pl.zeroth_order.update_rule.base import UpdateRule
from hiso_pl.zeroth_order.update_rule.numbers import check_eps, check_share, fp32, pieces, power


class Adam(UpdateRule):
    r"""Adam: every element steps by its running mean over the root of its running square.

    With :math:`\Delta = \sum_k D_k`, elementwise, in the t-th round that moves the state:

    .. math::

        m' &= \beta_1 m + (1 - \beta_1) \Delta \\
        v' &= \beta_2 v + (1 - \beta_2) \Delta^2 \\
        x' &= x - \frac{\eta}{1 - \beta_1^t} \cdot \frac{m'}{\sqrt{v'} / \sqrt{1 - \beta_2^t} + \epsilon}

    from m = v = 0; without bias correction both factors :math:`1 - \beta^t` are 1. Every operation is one fp32
    rounding, the factors of m, v and the root are rounded to fp32 once. Steps have the size of lr whatever the size of
    the scalars, so lr is not that of the plain step.

    Source: Kingma and Ba, arXiv 1412.6980, algorithm 1, with ``bias_correction``; FedAdam of Reddi et al., arXiv
    2003.00295, algorithm 2, without.

    Args:
        beta1: Share of the running mean that is kept, in [0, 1).
        beta2: Share of the running square that is kept, in [0, 1).
        eps: Added to the root, outside of it.
        bias_correction: Whether mean and square are divided by the weight of the rounds that are in them.
    """

    plain_rate = False

    def __init__(
        self, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, bias_correction: bool = True
    ) -> None:
        check_share("beta1", beta1)
        check_share("beta2", beta2)
        check_eps(eps)
        if not isinstance(bias_correction, bool):
            raise ValueError(f"bias_correction={bias_correction!r} must be true or false")
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps
        self.bias_correction = bias_correction

    def initial(self, parameter: Tensor, target: Target) -> dict[str, Tensor]:
        """Mean and square of zeros."""
        kinds = ("first_moment", "second_moment")
        return {kind: torch.zeros_like(parameter, dtype=torch.float32, requires_grad=False) for kind in kinds}

    def move(self, x: Tensor, direction: Tensor, lr: float, state: dict[str, Tensor], target: Target) -> None:
        """One step; each operation rounds once."""
        scale = 1.0
        if self.bias_correction:
            lr = lr / (1.0 - power(self.beta1, target.applied + 1))
            scale = 1.0 / math.sqrt(1.0 - power(self.beta2, target.applied + 1))
        for values, delta, mean, square in pieces(x, direction, state["first_moment"], state["second_moment"]):
            mean.mul_(fp32(self.beta1))
            mean.add_(delta * fp32(1.0 - self.beta1))
            self.advance_square(square, delta * delta)
            divisor = sqrt(square)
            divisor.mul_(fp32(scale))
            divisor.add_(fp32(self.eps))
            step = mean / divisor
            values.sub_(step.mul_(fp32(lr)))

    def advance_square(self, square: Tensor, fresh: Tensor) -> None:
        """Advances the running square in place, given the round's; ``fresh`` may be overwritten."""
        square.mul_(fp32(self.beta2))
        square.add_(fresh.mul_(fp32(1.0 - self.beta2)))
