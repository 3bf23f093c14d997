"""HiSo's preconditioner."""

from __future__ import annotations

import torch
from torch import Tensor

from hiso_pl.zeroth_order.kernels import Decay
from hiso_pl.zeroth_order.preconditioner.base import MovingAverage
from hiso_pl.zeroth_order.tensors import Target


class Diagonal(MovingAverage):
    """HiSo's preconditioner: one fp32 element of H for every parameter, advanced inside the update's one pass."""

    def initial(self, parameter: Tensor, target: Target) -> Tensor:
        """Ones of the parameter's shape."""
        return torch.ones_like(parameter, dtype=torch.float32, requires_grad=False)

    @property
    def decay(self) -> Decay:
        """The moving average of the squares."""
        return Decay(self.nu, self.eps, self.floor, self.hessian_update)
