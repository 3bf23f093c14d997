"""The update of a round: x, H and a rule's state from one round to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.zeroth_order.held import Held, rows_of_all
from hiso_pl.zeroth_order.kernels import Kernels
from hiso_pl.zeroth_order.kernels.torch_ops import squares_sum
from hiso_pl.zeroth_order.preconditioner import Preconditioner
from hiso_pl.zeroth_order.streams import Site
from hiso_pl.zeroth_order.tensors import Target
from hiso_pl.zeroth_order.update_rule import UpdateRule


class Moving(NamedTuple):
    """A tensor that an update moves.

    Attributes:
        x: The parameter, or what stands for it where it is worked on.
        hessian: H of the round.
        divisor: What ``divide`` takes for it.
        state: What the rule keeps.
        site: The tensor's stream in the round.
        target: What else is known of it.
    """

    x: Tensor
    hessian: Tensor | None
    divisor: Any
    state: dict[str, Tensor]
    site: Site
    target: Target


@dataclass(frozen=True)
class Update:
    """One round's update. H of the round serves every line of it, also where it is advanced in the same pass.

    Attributes:
        kernels: The passes over memory.
        preconditioner: How directions are divided and H advances.
        rule: How x moves.
        weights: Coefficients of u, c ghat / P, fp32, shape ``[tau, P]``.
        lr: Learning rate.
        held: What of the tensors is here, where several processes hold them together; all if None.
    """

    kernels: Kernels
    preconditioner: Preconditioner
    rule: UpdateRule
    weights: NDArray[np.float32]
    lr: float
    held: Held | None = None

    def run(self, tensors: Sequence[Moving]) -> NDArray[np.float64]:
        """Moves tensors in place: x, and H with it unless one number stands for many.

        Returns:
            Where the preconditioner uses them the sums of squares of D, shape ``[tensors, tau]``, else zeros.
        """
        squares = np.zeros((len(tensors), len(self.weights)), dtype=np.float64)
        filled = [i for i, one in enumerate(tensors) if one.x.numel()]
        if self.preconditioner.structured or not self.rule.fused:
            for i in filled:
                sums = self._by_buffer(*tensors[i])
                squares[i] = 0.0 if sums is None else sums
        else:
            all_sums = self._fused([tensors[i] for i in filled])
            squares[filled] = 0.0 if all_sums is None else all_sums
        return squares

    def advance_together(
        self, hessians: Sequence[Tensor | None], squares: NDArray[np.float64], targets: Sequence[Target]
    ) -> None:
        """Advances H where one number stands for many elements, once all tensors have moved.

        Args:
            hessians: H of each tensor.
            squares: What :meth:`run` gave, a row for each tensor; zeros for those that others hold.
            targets: The tensors and the round.
        """
        if self.preconditioner.uses_squares:
            if self.held is not None:
                squares = rows_of_all(self.held, squares)
            self._advance("advance_by_squares", hessians, squares, targets)

    def _fused(self, tensors: Sequence[Moving]) -> NDArray[np.float64] | None:
        preconditioner = self.preconditioner
        decay, uses = preconditioner.decay, preconditioner.uses_squares
        data, hessians, sites = [t.x.data for t in tensors], [t.hessian for t in tensors], [t.site for t in tensors]
        sums = self.kernels.update_all(data, hessians, sites, self.weights, self.lr, decay, uses)
        if decay is None and not uses and type(preconditioner).advance is not Preconditioner.advance:
            # it divides inside the kernel but advances by code of its own
            for t in tensors:
                steps = [self._divided(s, t.hessian) for s in self._sums(t.x, t.site)]
                self._advance("advance_by", self.kernels, t.hessian, steps, t.target)
        return sums

    def _by_buffer(
        self, x: Tensor, hessian: Tensor | None, divisor: Any, state: dict[str, Tensor], site: Site, target: Target
    ) -> NDArray[np.float64] | None:
        """Where rule or preconditioner do not run inside the kernel: directions, apply, add; the same bits."""
        sums = self._sums(x, site)
        total = sums[0].clone()
        for s in sums[1:]:
            total.add_(s)
        direction = self._divided(total, divisor)
        # a rule may move its direction: D of a single step is a copy of it
        steps = [direction.clone()] if len(sums) == 1 else [self._divided(s, divisor) for s in sums]
        before = dict(state)
        given: Any = self.rule.move(x.data, direction, self.lr, state, target)  # type: ignore[func-returns-value]
        if given is not None or state.keys() != before.keys() or any(state[k] is not before[k] for k in before):
            raise ValueError(f"update_rule={self.rule!r} must move x and state in place: what move() gives is lost")
        if self.preconditioner.uses_squares:
            return np.array([squares_sum(d) for d in steps])
        self._advance("advance_by", self.kernels, hessian, steps, target)
        return None

    def _divided(self, values: Tensor, hessian: Any) -> Tensor:
        found = self.preconditioner.divide(values, hessian)
        if not isinstance(found, Tensor) or found.shape != values.shape or found.dtype != values.dtype:
            what = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"preconditioner={self.preconditioner!r}: divide() gave {what}, "
                f"must give {values.dtype} of shape {tuple(values.shape)}"
            )
        return found

    def _advance(self, method: str, *args: Any) -> None:
        if getattr(self.preconditioner, method)(*args) is not None:
            given = f"what {method.removesuffix('_by')}() gives is lost"
            raise ValueError(f"preconditioner={self.preconditioner!r} must advance H in place: {given}")

    def _sums(self, x: Tensor, site: Site) -> list[Tensor]:
        """s_k for each local step, each of the shape of x."""
        sums = [torch.empty_like(x, requires_grad=False) for _ in self.weights]
        for k, s in enumerate(sums):
            self.kernels.combine(s, site, k, self.weights[k])
        return sums
