r"""Several points in one forward pass, where only a small part of a network is trained.

The trained tensors are stacked, one copy a point, and the loss is mapped over them: a matrix product with frozen
weights becomes one product over all points' activations, and what comes before the first trained tensor is computed
once. Scalars differ from those of separate passes by rounding only: products of other shapes sum in another order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hiso_pl.zeroth_order.out_of_memory import is_out_of_memory
from hiso_pl.zeroth_order.points import Point, Writer
from hiso_pl.zeroth_order.watching import Watch

AUTO_SHARE = 0.05
"""``auto`` puts all points of a step into one forward pass if no more than this share of the network is trained."""

AUTO_LIMIT = 8
"""At most so many points are put into one forward pass by ``auto``: activations grow with their number."""


def resolve(wanted: int | str, points: int, trained: int, total: int) -> int:
    """The number of points in one forward pass: a function of model and configuration, never of free memory.

    Args:
        wanted: A number, or ``auto``.
        points: Points of a local step.
        trained: Trained elements of the network.
        total: All its elements.

    Raises:
        ValueError: If ``wanted`` is neither.
    """
    if wanted == "auto":
        return min(points, AUTO_LIMIT) if trained <= AUTO_SHARE * total else 1
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
        raise ValueError(f"directions_per_forward={wanted!r} must be at least 1, or 'auto'")
    return wanted


class _Network(nn.Module):
    """A network whose forward pass is whatever it is given to evaluate."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, evaluate: Callable[[], Tensor]) -> Tensor:
        return evaluate()


class BatchedPoints:
    """Evaluates losses at several points at once.

    Args:
        parameters: The trainable parameters, in tensor order.
        writer: What writes points.
        dtype: What displaced weights are stored in.
        network: The module the parameters belong to.
        per_forward: Points in one forward pass, at most.
        checked: What makes a loss the numbers to return, shape ``[rows]``.

    Raises:
        ValueError: If a parameter does not belong to the network.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        writer: Writer,
        dtype: torch.dtype,
        network: nn.Module,
        per_forward: int,
        checked: Callable[[Tensor], Tensor],
    ) -> None:
        names = {id(p): name for name, p in network.named_parameters()}
        missing = sum(id(p) not in names for p in parameters)
        if missing:
            raise ValueError(
                f"network={type(network).__name__} does not hold {missing} of the parameters to be trained"
            )
        self._names = [f"network.{names[id(p)]}" for p in parameters]
        self._parameters = parameters
        self._writer = writer
        self._dtype = dtype
        self._network = _Network(network)
        self._per_forward = per_forward
        self._checked = checked
        self._stacks: list[Tensor] = []
        self._looked = False

    def losses(
        self, losses: Sequence[Callable[[], Tensor]], points: Sequence[Point], chosen: Sequence[int]
    ) -> list[NDArray[np.float32]]:
        """Each slot's losses at the chosen ones of a step's points, fp32, shape ``[rows, chosen]``.

        Every forward pass takes the same points whichever are chosen, and the same number of them, as passes of other
        shapes would round differently: where they do not come out even the last point is evaluated again.

        Raises:
            ValueError: If the network's forward pass cannot be mapped over its parameters.
        """
        size = self.pass_size(len(points))
        self._writer.look()
        columns: list[Tensor] = []
        found: list[int] = []
        sizes: list[int] = []
        for start in range(0, len(points), size):
            if not any(start <= i < start + size for i in chosen):
                continue
            found += range(start, start + size)
            group = [points[min(i, len(points) - 1)] for i in range(start, start + size)]
            stacks = dict(zip(self._names, self._stack(group), strict=True))
            with torch.inference_mode():
                values = [self._evaluate(loss, stacks) for loss in losses]
                columns.append(torch.cat(values, dim=1))
            sizes = [value.shape[1] for value in values]
        together = torch.cat(columns)[[found.index(i) for i in chosen]].cpu().numpy().T
        return np.split(together, np.cumsum(sizes)[:-1])

    def pass_size(self, points: int) -> int:
        """Points in each of the forward passes of a step with so many."""
        return math.ceil(points / math.ceil(points / self._per_forward))

    def _stack(self, group: Sequence[Point]) -> list[Tensor]:
        if not self._stacks or len(self._stacks[0]) != len(group):
            self._stacks = []  # the old ones go first
            self._stacks = [p.new_empty((len(group), *p.shape), dtype=self._dtype) for p in self._parameters]
        for i, point in enumerate(group):
            self._writer.write_all({t: stack[i] for t, stack in enumerate(self._stacks)}, point)
        return self._stacks

    def _evaluate(self, loss: Callable[[], Tensor], stacks: dict[str, Tensor]) -> Tensor:
        def at_one(values: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(self._network, values, (lambda: self._checked(loss()),))

        watch = Watch(self._parameters)
        try:
            mapped = partial(torch.vmap(at_one), stacks)
            values = mapped() if self._looked else watch.of(mapped)
            if watch.whole:  # of which the network, or the loss, holds more than the module's own reference
                raise RuntimeError("it holds its parameters elsewhere as well")
            self._looked = True
            return values
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"directions_per_forward={self._per_forward} must be 1 for this network, whose forward pass cannot be "
                f"mapped over its parameters ({reason})"
            ) from error
