r"""Preconditioners: what is known of the curvature, shared by all ranks, rebuilt from the aggregated scalars.

Directions are drawn as :math:`z = H^{-1/2} u`. After a round H follows the squares of the estimated gradient
:math:`D_k = \frac1P \sum_p \hat g_{k,p} z_{k,p}`:

.. math:: H_{r+1} = \max\big((1-\nu) H_r + \nu (D_{\tau-1}^2 + \epsilon),\ \mathrm{floor}\big)

A preconditioner of your own is a subclass, named in the YAML by its ``class_path``. If it divides elementwise by a
square root, it runs inside the kernels and only says how H advances; a structured one overrides :meth:`divide` as well
and goes by buffer.

Source: HiSo, arXiv 2506.02370, section 4.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.zeroth_order.kernels import Decay
from hiso_pl.zeroth_order.kernels.torch_ops import sqrt


class Preconditioner(ABC):
    """One H for each tensor, or one for all.

    Attributes:
        shared: One H for all tensors; it is stored, and counted, with the first.
        structured: Whether :meth:`divide` is overridden, so that directions go by buffer and not through the kernels.
        uses_squares: Whether H advances by the sums of squares of D, in :meth:`advance_by_squares`.
    """

    shared: ClassVar[bool] = False
    structured: ClassVar[bool] = False
    uses_squares: ClassVar[bool] = False

    @abstractmethod
    def initial(self, parameter: Tensor) -> Tensor | None:
        """H_0 for a tensor: fp32, of its shape or of one element (any shape if structured); None stores nothing."""

    @property
    def decay(self) -> Decay | None:
        """The elementwise moving average that the update kernel applies in its one pass, if that is how H advances."""
        return None

    def divide(self, values: Tensor, hessian: Tensor | None) -> Tensor:
        r"""Returns :math:`H^{-1/2}` times ``values``, both of the parameter's shape."""
        return values if hessian is None else values / sqrt(hessian)

    def advance(self, hessian: Tensor | None, steps: Sequence[Tensor]) -> None:
        """Advances one tensor's H in place, given D_0 to D_{tau-1} of the parameter's shape.

        Called where neither :attr:`decay` nor :attr:`uses_squares` says how, or where the update went by buffer.
        """
        if hessian is None or self.decay is None:
            return
        nu, eps, floor, every_step = self.decay
        # each constant is rounded to fp32 by torch once; each line is one rounding, as in the kernels
        for d in steps if every_step else steps[-1:]:
            fresh = d * d
            fresh = fresh + float(np.float32(eps))
            fresh = fresh * float(np.float32(nu))
            moved = hessian * float(np.float32(1.0 - nu)) + fresh
            hessian.copy_(torch.where(moved < float(np.float32(floor)), float(np.float32(floor)), moved))

    def advance_by_squares(  # noqa: B027 - only for those that use squares
        self, hessians: Sequence[Tensor], squares: NDArray[np.float64], numels: Sequence[int]
    ) -> None:
        """Advances every H in place, given the sums of squares of D, shape ``[tensors, tau]``."""


class Identity(Preconditioner):
    """H held at one, and no tensor stored for it: DeComFL (arXiv 2405.15861)."""

    def initial(self, parameter: Tensor) -> Tensor | None:
        """Nothing."""
        return None


class _MovingAverage(Preconditioner):
    def __init__(
        self,
        nu: float = 0.05,
        eps: float = 1e-8,
        floor: float = 1e-8,
        hessian_update: Literal["last", "all"] = "last",
    ) -> None:
        if not 0.0 <= nu <= 1.0:
            raise ValueError(f"nu={nu} must be in [0, 1]")
        if not (eps >= 0.0 and np.isfinite(eps)):
            raise ValueError(f"eps={eps} must be finite and not negative")
        if not (floor >= 0.0 and np.isfinite(floor)):
            raise ValueError(f"floor={floor} must be finite and not negative")
        if hessian_update not in ("last", "all"):
            raise ValueError(f"hessian_update={hessian_update!r} must be 'last' or 'all'")
        self.nu = nu
        self.eps = eps
        self.floor = floor
        self.hessian_update = hessian_update


class Diagonal(_MovingAverage):
    """HiSo's preconditioner: one fp32 element of H for every parameter, advanced inside the update's one pass.

    Args:
        nu: Weight of a round's squares in the moving average.
        eps: Added to the square.
        floor: Smallest value of H. With eps = floor = 0 H can decay without bound while scalars are small, which
            multiplies both the step and the effective mu.
        hessian_update: With several local steps, one step of the average for the last of them, or one for all in order.
    """

    def initial(self, parameter: Tensor) -> Tensor:
        """Ones of the parameter's shape."""
        return torch.ones_like(parameter, dtype=torch.float32, requires_grad=False)

    @property
    def decay(self) -> Decay:
        """The moving average of the squares."""
        return Decay(self.nu, self.eps, self.floor, self.hessian_update == "all")


class PerTensor(_MovingAverage):
    r"""One number for each tensor: the moving average of the mean square of D over its elements.

    .. math:: H' = \max\big((1-\nu) H + \nu (\tfrac1n \textstyle\sum_e D_e^2 + \epsilon),\ \mathrm{floor}\big)

    The sum runs in float64 along a fixed tree, the rest in float64, and H' is rounded to fp32 once.

    Args:
        nu: Weight of a round's mean square in the moving average.
        eps: Added to the mean square.
        floor: Smallest value of H.
        hessian_update: With several local steps, one step of the average for the last of them, or one for all in order.
    """

    uses_squares = True

    def initial(self, parameter: Tensor) -> Tensor:
        """A single one."""
        return torch.ones(1, dtype=torch.float32, device=parameter.device)

    def advance_by_squares(
        self, hessians: Sequence[Tensor], squares: NDArray[np.float64], numels: Sequence[int]
    ) -> None:
        """Advances each tensor's number by its own mean squares."""
        for hessian, row, numel in zip(hessians, squares, numels, strict=True):
            if numel:
                self._advance_one(hessian, row / numel)

    def _advance_one(self, hessian: Tensor, mean_squares: NDArray[np.float64]) -> None:
        value = float(hessian.item())
        for square in mean_squares if self.hessian_update == "all" else mean_squares[-1:]:
            value = max((1.0 - self.nu) * value + self.nu * (float(square) + self.eps), self.floor)
        hessian.fill_(float(np.float32(value)))


class Scalar(PerTensor):
    """One number for the whole model: the moving average of the mean square of D over all elements.

    The control for the diagonal: it sets the step size as the diagonal does on average, and nothing else.

    Args:
        nu: Weight of a round's mean square in the moving average.
        eps: Added to the mean square.
        floor: Smallest value of H.
        hessian_update: With several local steps, one step of the average for the last of them, or one for all in order.
    """

    shared = True

    def advance_by_squares(
        self, hessians: Sequence[Tensor], squares: NDArray[np.float64], numels: Sequence[int]
    ) -> None:
        """Advances the one number by the mean square over all tensors, summed in tensor order."""
        total = np.zeros(squares.shape[1], dtype=np.float64)
        for row in squares:
            total = total + row
        self._advance_one(hessians[0], total / sum(numels))
