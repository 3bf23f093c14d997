"""A block-diagonal preconditioner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hiso_pl.zeroth_order.kernels import HessianUpdate, Kernels, advancing, tree_sum
from hiso_pl.zeroth_order.kernels.blocks import Average, BlockFactor, Blocks
from hiso_pl.zeroth_order.preconditioner.base import MovingAverage
from hiso_pl.zeroth_order.tensors import Target

MAX_SIZE = 64


class Block(MovingAverage):
    r"""Small matrices along the diagonal of H, so that what elements close to each other have in common counts.

    A tensor is flattened to ``[out, rest]`` (a vector is one row) and each row cut into consecutive blocks of ``size``
    elements, the last one shorter. Of each block, with L from Cholesky's method, in float64, once a round:

    .. math::
        H' = (1-\nu) H + \nu (D D^T + \epsilon I), \qquad L L^T = H, \qquad z = L^{-T} u

    Elements on the diagonal are at least ``floor``. Eigenvalues are not cut: what keeps H positive definite is eps, and
    a run whose H is so no longer stops. H is stored as lower triangles in fp32, (size + 1) / 2 numbers for every
    parameter, and so are its factors. With a size of 1 it is :class:`Diagonal`, to the bit.

    Args:
        size: Elements of a block b, 1 to 64.
        nu: Weight of a round's product in the moving average.
        eps: Added to the diagonal of the product.
        floor: Smallest value on the diagonal of H.
        hessian_update: With several local steps, one step of the average for the ``last`` or the ``first`` of them, or
            one for each of ``all``, in order.
        normalize: ``trace`` multiplies directions by one number a round, so that their expected square is that of
            directions without H.
    """

    structured = True
    distributions = ("normal",)  # u has to be as likely turned any way: H is of z

    def __init__(
        self,
        size: int = 16,
        nu: float = 0.05,
        eps: float = 1e-8,
        floor: float = 1e-8,
        hessian_update: HessianUpdate = "last",
        normalize: Literal["none", "trace"] = "none",
    ) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MAX_SIZE:
            raise ValueError(f"size={size} must be an integer in [1, {MAX_SIZE}]")
        super().__init__(nu, eps, floor, hessian_update, normalize)
        self.size = size

    def initial(self, parameter: Tensor, target: Target) -> Tensor:
        """The identity in every block, packed: fp32 ``[rows, packed]``."""
        blocks = Blocks.of(target.shape, self.size)
        hessian = torch.zeros(blocks.rows, blocks.packed, dtype=torch.float32, device=parameter.device)
        hessian[:, torch.from_numpy(blocks.diagonal)] = 1.0
        return hessian

    def prepared(self, hessian: Tensor | None, target: Target, kernels: Kernels, before: Any = None) -> BlockFactor:
        """The factors L."""
        assert hessian is not None
        factor = kernels.factor(hessian, Blocks.of(target.shape, self.size), before)
        if factor is None:
            raise ValueError("is not positive definite: give the preconditioner a larger eps, or a smaller nu or size")
        return factor

    def of_rows(self, prepared: BlockFactor, rows: Tensor) -> BlockFactor:
        """The factors of the rows: no block goes beyond its row."""
        return prepared.of_rows(rows)

    def divide(self, values: Tensor, hessian: BlockFactor) -> Tensor:
        r"""Returns :math:`L^{-T}` times ``values``."""
        return hessian.solve(values)

    def inverse_trace(self, prepared: BlockFactor, count: int) -> float:
        """The traces of the blocks' inverses, by the tree."""
        return tree_sum(prepared.inverse_traces())

    def shown(self, hessian: Tensor, target: Target) -> Tensor:
        """The diagonals, in the order of the elements."""
        return hessian[:, torch.from_numpy(Blocks.of(target.shape, self.size).diagonal)]

    def advance_by(self, kernels: Kernels, hessian: Tensor | None, steps: Sequence[Tensor], target: Target) -> None:
        """One step of the average for each D in question, by the method's kernels."""
        assert hessian is not None
        average = Average(*(np.float32(c) for c in (1.0 - self.nu, self.nu, self.eps, self.floor)))
        for d in advancing(self.hessian_update, steps):
            kernels.advance_blocks(hessian, Blocks.of(target.shape, self.size), d, average)
