r"""H as a linear map: what directions are divided by, and what that makes of a gradient or a Hessian.

With :math:`z = B u`, :math:`B = c H^{-1/2}` (of blocks :math:`c L^{-T}`, :math:`L L^T = H`), a method sees f as in the
coordinates :math:`B^{-1} x`: the gradient :math:`B^T g`, the Hessian :math:`B^T A B`. And :math:`B B^T = c^2 H^{-1}`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hiso_pl.zeroth_order.kernels.blocks import Blocks
from hiso_pl.zeroth_order.optimizer import ZerothOrderOptimizer
from hiso_pl.zeroth_order.preconditioner import Block


class _Factors(NamedTuple):
    """Blocks of one size: the flat positions of their elements ``[n, s]``, and their L, float64 ``[n, s, s]``."""

    places: Tensor
    lower: Tensor


class HessianEstimate:
    """H of every element, as numbers or as blocks, and the number c of ``normalize``.

    Args:
        hessians: Of each tensor H: of its shape, of one element, or None for one without.
        shapes: The tensors' shapes.
        scale: c.
        size: Elements of a block, where H is packed blocks; 0 elsewhere.
        device: Where there is no H to say.

    Attributes:
        scale: c.
        numbers: How many numbers H is: 0 without H.
    """

    def __init__(
        self,
        hessians: Sequence[Tensor | None],
        shapes: Sequence[Sequence[int]],
        scale: float = 1.0,
        size: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.scale = scale
        self.numbers = sum({id(h): h.numel() for h in hessians if h is not None}.values())
        self._factors: list[_Factors] = []
        diagonal, first = [], 0
        device = next((h.device for h in hessians if h is not None), device)
        for hessian, shape in zip(hessians, shapes, strict=True):
            count = math.prod(shape)
            if hessian is None:
                diagonal.append(torch.ones(count, dtype=torch.float64, device=device))
            elif size and count:
                cut = Blocks.of(shape, size)
                self._factors += _unpacked(hessian.detach(), cut, first)
                places = torch.from_numpy(cut.diagonal).to(device)
                diagonal.append(hessian.detach().double()[:, places].reshape(-1))
            else:
                diagonal.append(hessian.detach().double().reshape(-1).expand(count))
            first += count
        self.diagonal = torch.cat(diagonal)
        """The elements on H's diagonal, float64, shape ``[d]``."""

    @classmethod
    def of(cls, optimizer: ZerothOrderOptimizer) -> HessianEstimate:
        """H of an optimizer's next round.

        Raises:
            ValueError: If its preconditioner is structured and not known here.
        """
        preconditioner = optimizer.method.preconditioner
        size = preconditioner.size if isinstance(preconditioner, Block) else 0
        if preconditioner.structured and not size:
            raise ValueError(f"preconditioner={preconditioner!r} is structured in a way that no diagnosis is made of")
        shapes = [tuple(p.shape) for p in optimizer.parameters]
        return cls(optimizer.hessians, shapes, optimizer.plan().frozen.scale, size, optimizer.parameters[0].device)

    @property
    def elements(self) -> int:
        """Elements d."""
        return self.diagonal.numel()

    @property
    def blocks(self) -> bool:
        """Whether H has elements beside its diagonal."""
        return bool(self._factors)

    def root(self, values: Tensor) -> Tensor:
        """B times vectors of shape ``[..., d]``."""
        return self._through(values, inner=True, outer=False)

    def root_transposed(self, values: Tensor) -> Tensor:
        """B^T times vectors of shape ``[..., d]``."""
        return self._through(values, inner=False, outer=True)

    def inverse(self, values: Tensor) -> Tensor:
        """B B^T, which is c^2 H^-1, times vectors of shape ``[..., d]``."""
        return self._through(values, inner=True, outer=True)

    def square(self, values: Tensor) -> float:
        """The square of a vector in the coordinates of H, :math:`|B^{-1} v|^2 = v^T H v / c^2`, shape ``[d]``."""
        wide = values.double()
        if not self.blocks:
            return float((wide * wide * self.diagonal).sum()) / self.scale**2
        parts = [(f.lower.mT @ wide[f.places].unsqueeze(-1)).square().sum() for f in self._factors]
        return float(torch.stack(parts).sum()) / self.scale**2

    def inverse_trace(self) -> float:
        """The trace of B B^T; d with ``normalize: trace``."""
        if not self.blocks:
            return self.scale**2 * float((1.0 / self.diagonal).sum())
        traces = [torch.cholesky_inverse(f.lower).diagonal(dim1=-2, dim2=-1).sum() for f in self._factors]
        return self.scale**2 * float(torch.stack(traces).sum())

    def _through(self, values: Tensor, *, inner: bool, outer: bool) -> Tensor:
        c = self.scale ** (inner + outer)
        if not self.blocks:
            power = self.diagonal if inner and outer else self.diagonal.sqrt()
            return (values * (c / power)).to(values.dtype)
        out = torch.zeros_like(values)
        for places, lower in self._factors:
            block = values[..., places].double().unsqueeze(-1)
            if outer:
                block = torch.linalg.solve_triangular(lower, block, upper=False)
            if inner:
                block = torch.linalg.solve_triangular(lower.mT, block, upper=True)
            out[..., places] = (c * block.squeeze(-1)).to(values.dtype)
        return out


def _unpacked(hessian: Tensor, cut: Blocks, first: int) -> list[_Factors]:
    """The blocks of a tensor whose elements begin at a flat position."""
    found = []
    for elements, packed, count, size in cut.parts:
        row, column = torch.tril_indices(size, size, device=hessian.device)
        dense = torch.zeros(cut.rows, count, size, size, dtype=torch.float64, device=hessian.device)
        dense[..., row, column] = hessian[:, packed].reshape(cut.rows, count, -1).double()
        lower = torch.linalg.cholesky(dense + dense.tril(-1).mT)
        starts = torch.arange(cut.rows, device=hessian.device)[:, None, None] * cut.width
        inside = torch.arange(elements.start, elements.stop, device=hessian.device).reshape(1, count, size)
        found.append(_Factors((first + starts + inside).reshape(-1, size), lower.reshape(-1, size, size)))
    return found
