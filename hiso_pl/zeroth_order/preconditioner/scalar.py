"""One number in place of a diagonal: for each tensor, or for all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.zeroth_order.kernels import advancing
from hiso_pl.zeroth_order.preconditioner.base import MovingAverage
from hiso_pl.zeroth_order.tensors import Target


class PerTensor(MovingAverage):
    r"""One number for each tensor: the moving average of the mean square of D over its elements.

    .. math:: H' = \max\big((1-\nu) H + \nu (\tfrac1n \textstyle\sum_e D_e^2 + \epsilon),\ \mathrm{floor}\big)

    The sum runs in float64 along a fixed tree, the rest in float64, and H' is rounded to fp32 once. Where tensors share
    an H, the sums of their squares are added in tensor order.
    """

    uses_squares = True

    def initial(self, parameter: Tensor, target: Target) -> Tensor:
        """A single one."""
        return torch.ones(1, dtype=torch.float32, device=parameter.device)

    def advance_by_squares(
        self, hessians: Sequence[Tensor | None], squares: NDArray[np.float64], targets: Sequence[Target]
    ) -> None:
        """Advances each owner's number by the mean squares of the tensors that share it."""
        owners = list(self.owners(targets))
        for owner in dict.fromkeys(owners):
            total, count = np.zeros(squares.shape[1], dtype=np.float64), 0
            for t, row in enumerate(squares):
                if owners[t] == owner:
                    total, count = total + row, count + int(np.prod(targets[t].shape, dtype=np.int64))
            hessian = hessians[owner]
            if count and hessian is not None:
                self._advance_one(hessian, total / count)

    def _advance_one(self, hessian: Tensor, mean_squares: NDArray[np.float64]) -> None:
        value = float(hessian.item())
        for square in advancing(self.hessian_update, mean_squares.tolist()):
            value = max((1.0 - self.nu) * value + self.nu * (square + self.eps), self.floor)
        hessian.fill_(float(np.float32(value)))


class Scalar(PerTensor):
    """One number for the whole model: the moving average of the mean square of D over all elements.

    The control for the diagonal: it sets the step size as the diagonal does on average, and nothing else.
    """

    def owners(self, targets: Sequence[Target]) -> Sequence[int]:
        """The first tensor's, for all."""
        return [0] * len(targets)
