r"""Preconditioners: what is known of the curvature, shared by all ranks, rebuilt from the aggregated scalars.

Directions are drawn as :math:`z = H^{-1/2} u`. After a round H follows the squares of the estimated gradient
:math:`D_k = \frac1P \sum_p \hat g_{k,p} z_{k,p}`:

.. math:: H_{r+1} = \max\big((1-\nu) H_r + \nu (D_{\tau-1}^2 + \epsilon),\ \mathrm{floor}\big)

with :math:`D_0` in its place, or the D of every local step in turn, where ``hessian_update`` says so.

One that divides elementwise by a square root runs inside the kernels and only says how H advances; a structured one
overrides :meth:`Preconditioner.divide` as well and goes by buffer.

With ``normalize: trace`` all directions of a round are multiplied by one number, so that H says which way a step goes
and not how far:

.. math:: z = c\, H^{-1/2} u, \qquad c = \sqrt{d / \operatorname{tr} H^{-1}}

Then :math:`E|z|^2 = d` as without H. The sum of 1/H runs in float64 along the tree of a tensor (:func:`.tree_sum`), and
over the tensors in their order; c is rounded to fp32 once.

Source: HiSo, arXiv 2506.02370, section 4; c is the factor that falls away there between equations 7 and 8.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.zeroth_order.kernels import HESSIAN_UPDATES, Decay, HessianUpdate, Kernels, advancing
from hiso_pl.zeroth_order.kernels.torch_ops import inverse_sum, sqrt
from hiso_pl.zeroth_order.part import Part
from hiso_pl.zeroth_order.tensors import Target


class Preconditioner(Part, ABC):
    """H of each tensor, or of several together.

    Attributes:
        structured: Whether :meth:`divide` is overridden, so that directions go by buffer and not through the kernels.
        uses_squares: Whether H advances by the sums of squares of D, in :meth:`advance_by_squares`.
        distributions: The distributions of directions that it can be had with; None for all.
    """

    structured: ClassVar[bool] = False
    uses_squares: ClassVar[bool] = False
    distributions: ClassVar[Collection[str] | None] = None

    def owners(self, targets: Sequence[Target]) -> Sequence[int]:
        """For each tensor the position of the one whose H it has: its own, unless several tensors share one.

        A shared H has one element, and advances by the sums of squares.
        """
        return range(len(targets))

    @abstractmethod
    def initial(self, parameter: Tensor, target: Target) -> Tensor | None:
        """H_0 of an owner: fp32, of the tensor's shape or of one element (any if structured); None stores nothing.

        Args:
            parameter: The tensor.
            target: What else is known of it.
        """

    @property
    def decay(self) -> Decay | None:
        """The elementwise moving average that the update kernel applies in its one pass, if that is how H advances."""
        return None

    @property
    def tensorwise(self) -> bool:
        """Whether what each tensor's H divides by, and how it advances, is a matter of that tensor alone."""
        own_scale = type(self).scale is not Preconditioner.scale
        return not (self.structured or self.uses_squares or own_scale)

    # What a round makes of its H, once

    def prepared(self, hessian: Tensor | None, target: Target, kernels: Kernels, before: Any = None) -> Any:
        """What :meth:`divide` takes in place of H if structured, such as its factors: made of H once a round.

        Args:
            hessian: H of the tensor.
            target: The tensor and the round.
            kernels: The passes over memory that the method has chosen.
            before: What was made of the H before, which is done with; its memory may serve again.

        Raises:
            ValueError: If directions cannot be had of this H. The message follows on the tensor's name.
        """
        return hessian

    def of_rows(self, prepared: Any, rows: Tensor) -> Any:
        """What :meth:`divide` takes for rows alone, by their indices in the first dimension; None if it needs all."""
        return None

    def scale(self, prepared: Sequence[Any], targets: Sequence[Target]) -> float:
        """The number c, exact in fp32, that all directions of a round are multiplied by.

        Args:
            prepared: Of each tensor what :meth:`divide` takes.
            targets: The tensors and the round.
        """
        return 1.0

    def shown(self, hessian: Tensor, target: Target) -> Tensor:
        """The elements of a tensor's H that curves show: those on its diagonal."""
        return hessian

    def divide(self, values: Tensor, hessian: Any) -> Tensor:
        r"""Returns :math:`H^{-1/2}` times ``values``, both of the parameter's shape.

        Args:
            values: Of a direction, or of several together.
            hessian: What :meth:`prepared` gave: H itself, unless that is overridden.
        """
        if hessian is None:
            return values
        # one number of H, a tensor of one dimension, would make one of none alike
        return (values / sqrt(hessian)).view(values.shape)

    def advance(self, hessian: Tensor | None, steps: Sequence[Tensor], target: Target) -> None:
        """Advances one tensor's H in place, given D_0 to D_{tau-1} of the parameter's shape.

        Called where neither :attr:`decay` nor :attr:`uses_squares` says how, or where the update went by buffer.

        Args:
            hessian: H of the tensor.
            steps: D of each local step.
            target: The tensor and the round.
        """
        if hessian is None or self.decay is None:
            return
        nu, eps, floor, taken = self.decay
        # each constant is rounded to fp32 by torch once; each line is one rounding, as in the kernels
        for d in advancing(taken, steps):
            fresh = d * d
            fresh = fresh + float(np.float32(eps))
            fresh = fresh * float(np.float32(nu))
            moved = hessian * float(np.float32(1.0 - nu)) + fresh
            hessian.copy_(torch.where(moved < float(np.float32(floor)), float(np.float32(floor)), moved))

    def advance_by(self, kernels: Kernels, hessian: Tensor | None, steps: Sequence[Tensor], target: Target) -> Any:
        """:meth:`advance`, for whom it serves to know the passes over memory that the method has chosen."""
        return self.advance(hessian, steps, target)

    def advance_by_squares(
        self, hessians: Sequence[Tensor | None], squares: NDArray[np.float64], targets: Sequence[Target]
    ) -> None:
        """Advances every H in place.

        Args:
            hessians: H of each tensor; the same one where tensors share it.
            squares: The sums of squares of D, shape ``[tensors, tau]``.
            targets: The tensors and the round.
        """


def scale_of(traces: Sequence[float], elements: int) -> float:
    """c, of the sums of 1/H of the tensors in their order, and the number of elements of all."""
    trace = 0.0
    for one in traces:
        trace += one
    return float(np.float32(math.sqrt(elements / trace))) if elements else 1.0


class MovingAverage(Preconditioner):
    """What preconditioners have in common whose H is a moving average of squares.

    Args:
        nu: Weight of a round's square in the moving average.
        eps: Added to the square.
        floor: Smallest value of H. With eps = floor = 0 H can decay without bound while scalars are small, which
            multiplies both the step and the effective mu.
        hessian_update: With several local steps, one step of the average for the ``last`` of them (the authors' code)
            or the ``first`` (the paper's equation 12), or one for each of ``all``, in order.
        normalize: ``trace`` multiplies directions by one number a round, so that their expected square is that of
            directions without H: then H has no say in the size of a step, only in its shape.
    """

    later: ClassVar[Mapping[str, Any]] = {"normalize": "none"}

    def __init__(
        self,
        nu: float = 0.05,
        eps: float = 1e-8,
        floor: float = 1e-8,
        hessian_update: HessianUpdate = "last",
        normalize: Literal["none", "trace"] = "none",
    ) -> None:
        if not 0.0 <= nu <= 1.0:
            raise ValueError(f"nu={nu} must be in [0, 1]")
        if not (eps >= 0.0 and np.isfinite(eps)):
            raise ValueError(f"eps={eps} must be finite and not negative")
        if not (floor >= 0.0 and np.isfinite(floor)):
            raise ValueError(f"floor={floor} must be finite and not negative")
        if hessian_update not in HESSIAN_UPDATES:
            raise ValueError(f"hessian_update={hessian_update!r} must be one of {', '.join(HESSIAN_UPDATES)}")
        if normalize not in ("none", "trace"):
            raise ValueError(f"normalize={normalize!r} must be 'none' or 'trace'")
        self.nu = nu
        self.eps = eps
        self.floor = floor
        self.hessian_update = hessian_update
        self.normalize = normalize

    @property
    def tensorwise(self) -> bool:
        """See :class:`Preconditioner`."""
        own_scale = type(self).scale is not MovingAverage.scale or self.normalize != "none"
        return not (self.structured or self.uses_squares or own_scale)

    def scale(self, prepared: Sequence[Any], targets: Sequence[Target]) -> float:
        """c, of the elements of all tensors; 1 unless normalized."""
        if self.normalize == "none":
            return 1.0
        counts = [math.prod(target.shape) for target in targets]
        traces = [self.inverse_trace(h, count) if count else 0.0 for h, count in zip(prepared, counts, strict=True)]
        return scale_of(traces, sum(counts))

    def inverse_trace(self, prepared: Any, count: int) -> float:
        """The sum of 1/H over a tensor's elements, in float64.

        Args:
            prepared: What :meth:`divide` takes: H, elementwise or of one element.
            count: Elements of the tensor.
        """
        return count / float(prepared) if prepared.numel() == 1 else inverse_sum(prepared)
