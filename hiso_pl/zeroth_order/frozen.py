"""H of a round, as its directions take it: frozen, the same in every line of the round."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.zeroth_order.held import Held
from hiso_pl.zeroth_order.kernels import Kernels
from hiso_pl.zeroth_order.preconditioner import Preconditioner
from hiso_pl.zeroth_order.preconditioner.base import MovingAverage, scale_of
from hiso_pl.zeroth_order.tensors import Target


class Frozen(NamedTuple):
    """What directions are divided and multiplied by: z = c H^-1/2 u.

    Attributes:
        hessians: Of each tensor what ``divide`` takes: H, or what a structured preconditioner has made of it.
        scale: c. Coefficients of directions carry it, mu and the weights, so that kernels need not know of it.
    """

    hessians: Sequence[Any]
    scale: float = 1.0

    def carried(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Coefficients of u, given those of z: c w, rounded once."""
        with np.errstate(over="ignore"):  # what is no number is met where all that is not finite is met
            return weights * np.float32(self.scale)


class Freezer:
    """Makes a round's :class:`Frozen` of H once, and keeps it while H stays as it is.

    Args:
        preconditioner: What makes it.
    """

    def __init__(self, preconditioner: Preconditioner) -> None:
        self._preconditioner = preconditioner
        self._kept = Frozen(())
        self._of: list[Any] = []

    def __call__(
        self,
        hessians: Sequence[Tensor | None],
        told: Callable[[], Sequence[Target]],
        kernels: Kernels,
        held: Held | None = None,
    ) -> Frozen:
        """H as directions take it; of tensors whose values are elsewhere as it is.

        Args:
            hessians: H of each tensor.
            told: Tells of the tensors and the round, where they matter.
            kernels: The passes over memory that the method has chosen.
            held: What of the tensors is here.

        Raises:
            ValueError: If they cannot, by the tensor's name.
        """
        of = [(h, None if h is None or h.is_inference() else h._version) for h in hessians]
        if len(of) != len(self._of) or any(h is not o or v != w for (h, v), (o, w) in zip(of, self._of, strict=True)):
            self.moved()
            targets = told()
            here = range(len(targets)) if held is None else held.own
            given = (
                self._prepared(hessians, targets, kernels, here) if self._preconditioner.structured else list(hessians)
            )
            self._kept = Frozen(given, self._scale(given, targets, held))
            self._of = of
        return self._kept

    def _scale(self, given: Sequence[Any], targets: Sequence[Target], held: Held | None) -> float:
        preconditioner = self._preconditioner
        if held is None:
            return preconditioner.scale(given, targets)
        if type(preconditioner).scale is Preconditioner.scale:
            return 1.0
        if not isinstance(preconditioner, MovingAverage) or type(preconditioner).scale is not MovingAverage.scale:
            raise ValueError(f"preconditioner={preconditioner!r} must not have a scale() of its own where ranks hold H")
        if preconditioner.normalize == "none":
            return 1.0
        counts = [math.prod(target.shape) for target in targets]
        traces = {t: preconditioner.inverse_trace(given[t], counts[t]) if counts[t] else 0.0 for t in held.own}
        everyone = held.merged(traces)
        return scale_of([everyone[t] for t in range(len(targets))], sum(counts))

    def moved(self) -> None:
        """H is another now; kernels that moved it leave no trace on a tensor."""
        self._of = []

    def _prepared(
        self, hessians: Sequence[Tensor | None], targets: Sequence[Target], kernels: Kernels, here: Container[int]
    ) -> list[Any]:
        before = self._kept.hessians or [None] * len(targets)
        self._kept = Frozen(())
        found = []
        for hessian, target, old in zip(hessians, targets, before, strict=True):
            try:
                there = target.position not in here
                found.append(None if there else self._preconditioner.prepared(hessian, target, kernels, old))
            except ValueError as error:
                raise ValueError(f"{target.name!r} (hessian) {error}") from error
        return found
