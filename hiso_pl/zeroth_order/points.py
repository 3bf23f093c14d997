"""Evaluating a network at displaced points, with the base weights untouched to the bit.

Displaced values go to memory of their own and the parameters' ``data`` point there while a loss runs. Nothing is ever
added to the weights and taken off again, so nothing drifts. How much of a point exists at a time is a choice:

* :class:`WholePoints`, ``memory: fast``: all of it, in one more copy of the trainable parameters, save the tables of
  which a forward pass looks up rows. A point is written once and serves any number of evaluations.
* :class:`LeanPoints`, ``memory: low``: of each operator the weights, while it runs. Every evaluation writes them anew.

Both give the operators the same values, so the same bits come out.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.zeroth_order.kernels import Kernels, Offset
from hiso_pl.zeroth_order.preconditioner import Preconditioner
from hiso_pl.zeroth_order.streams import Site
from hiso_pl.zeroth_order.substitution import Substitution

Memory = Literal["fast", "low"]

NO_DRIFT = np.empty((0, 1), dtype=np.float32)


class Point(NamedTuple):
    r"""Where to evaluate: :math:`x + (\pm\mu u_p - \eta S) / \sqrt{H}`, with coefficients of u.

    Attributes:
        sites: Each tensor's stream in the round.
        hessians: H of the round, for each tensor, as ``divide`` takes it.
        lr: Learning rate of the local moves.
        k: Local step.
        offset: Direction and signed mu; None for the local point itself.
        drift: Weights of the client's own earlier local steps, shape ``[k, P]``.
    """

    sites: Sequence[Site]
    hessians: Sequence[Any]
    lr: float = 0.0
    k: int = 0
    offset: Offset | None = None
    drift: NDArray[np.float32] = NO_DRIFT

    @property
    def at_x(self) -> bool:
        """Whether this is x itself."""
        return self.offset is None and len(self.drift) == 0


class Writer:
    """Writes points, and counts the time that takes on the host.

    Args:
        parameters: The trainable parameters, in tensor order.
        kernels: The passes over memory.
        preconditioner: How directions are divided.

    Attributes:
        bases: x: the parameters' own memory.
        seconds: Host time spent writing so far.
        in_place: Whether networks are evaluated where the parameters live.
    """

    in_place: ClassVar[bool] = True

    def __init__(self, parameters: Sequence[Tensor], kernels: Kernels, preconditioner: Preconditioner) -> None:
        self._parameters = parameters
        self._kernels = kernels
        self._preconditioner = preconditioner
        self.bases: Sequence[Tensor] = []
        self.seconds = 0.0

    @property
    def device(self) -> torch.device:
        """Where points are evaluated."""
        return self._parameters[0].device

    def look(self) -> None:
        """Takes the parameters' memory as x. To be called while no point is being evaluated."""
        self.bases = [p.data for p in self._parameters]

    def write(self, t: int, out: Tensor, point: Point, rows: Tensor | None = None) -> None:
        """Writes tensor ``t`` of a point, or rows of it."""
        if out.numel() == 0:
            return
        started = time.perf_counter()
        k, offset, drift, lr = point.k, point.offset, point.drift, point.lr
        base, hessian, site = self.bases[t], point.hessians[t], point.sites[t]
        if not self._preconditioner.structured or point.at_x:
            self._kernels.displace(out, base, hessian, site, k, offset, drift, lr, rows)
        else:
            some = None if rows is None or base.dim() < 2 else self._preconditioner.of_rows(hessian, rows)
            if some is not None and rows is not None:
                base, hessian, chosen, rows = base[rows], some, rows, None
            else:
                chosen = None
            moved, zeros = torch.empty_like(base), torch.zeros_like(self.bases[t])
            self._kernels.displace(moved, zeros, None, site, k, offset, drift, lr, chosen)
            whole = base + self._preconditioner.divide(moved, hessian)
            out.copy_((whole if rows is None else whole[rows]).view(out.shape))
        self.seconds += time.perf_counter() - started

    def write_all(self, outs: Mapping[int, Tensor], point: Point) -> None:
        """Writes several tensors of a point, each whole, by their positions."""
        if self._preconditioner.structured:
            for t, out in outs.items():
                self.write(t, out, point)
            return
        started = time.perf_counter()
        chosen = [t for t, out in outs.items() if out.numel()]
        self._kernels.displace_all(
            [outs[t] for t in chosen],
            [self.bases[t] for t in chosen],
            [point.hessians[t] for t in chosen],
            [point.sites[t] for t in chosen],
            point.k,
            point.offset,
            point.drift,
            point.lr,
        )
        self.seconds += time.perf_counter() - started


@contextmanager
def standing_at(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    """The parameters' data are ``values`` inside the block, and what they were after it."""
    bases = [p.data for p in parameters]
    try:
        for p, value in zip(parameters, values, strict=True):
            p.data = value
        yield
    finally:
        for p, base in zip(parameters, bases, strict=True):
            p.data = base


def absent(p: Tensor, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """What stands for values that exist nowhere: of the right shape and type, and NaN wherever it is read after all."""
    return torch.full((1,) * p.dim(), float("nan"), dtype=dtype, device=device or p.device).expand(p.shape)


def is_absent(values: Tensor) -> bool:
    """Whether this is what :func:`absent` gives: one number for all elements."""
    strides = zip(values.stride(), values.shape, strict=True)
    return values.numel() > 1 and not any(stride for stride, size in strides if size > 1)


def converted(values: Tensor, to: torch.dtype | torch.device) -> Tensor:
    """Values in another type or place; what :func:`absent` has given takes no more memory than before."""
    if not is_absent(values):
        return values.to(to)
    return values[(slice(1),) * values.dim()].to(to).expand(values.shape)


class Points(ABC):
    """Lets a network's forward passes see a displaced point.

    Args:
        parameters: The trainable parameters, in tensor order.
        writer: What writes points.
        dtype: What displaced weights are stored in, and so what the forward pass computes in.

    Attributes:
        partial: Whether some weights are absent, as NaN, where nothing says that they are read.
    """

    partial = False

    def __init__(self, parameters: Sequence[Tensor], writer: Writer, dtype: torch.dtype) -> None:
        self._parameters = parameters
        self._writer = writer
        self._dtype = dtype
        self._point: Point | None = None

    def at(self, point: Point) -> AbstractContextManager[None]:
        """The parameters stand at the point inside the block, and at x again, untouched, after it."""
        if point.at_x and self._dtype == torch.float32 and self._writer.in_place:
            return nullcontext()
        self._writer.look()
        return self._at(point)

    @abstractmethod
    def _at(self, point: Point) -> AbstractContextManager[None]: ...

    def _write(self, t: int, out: Tensor, rows: Tensor | None) -> None:
        """Writes of the current point what an operator takes."""
        assert self._point is not None
        self._writer.write(t, out, self._point, rows)


class WholePoints(Points):
    """A point in one more copy of the trainable parameters, kept between points.

    Args:
        parameters: See :class:`Points`.
        writer: See :class:`Points`.
        dtype: See :class:`Points`.
        by_rows: Positions of parameters that are read by rows at marked places and nowhere else: they are not copied.
    """

    def __init__(
        self, parameters: Sequence[Tensor], writer: Writer, dtype: torch.dtype, by_rows: frozenset[int] = frozenset()
    ) -> None:
        super().__init__(parameters, writer, dtype)
        self.by_rows = by_rows
        self.partial = bool(by_rows)
        # strides as the parameters', so that a probe runs the same forward pass
        self._values = [
            absent(p, dtype) if t in by_rows else torch.empty_like(p, dtype=dtype, requires_grad=False)
            for t, p in enumerate(parameters)
        ]

        self._rows = Substitution(parameters, self._write, dtype, everywhere=False) if by_rows else None

    @contextmanager
    def _at(self, point: Point) -> Iterator[None]:
        self._writer.write_all({t: out for t, out in enumerate(self._values) if t not in self.by_rows}, point)
        self._point = point
        rows = nullcontext() if self._rows is None else self._rows.active()
        with standing_at(self._parameters, self._values), rows:
            yield


class LeanPoints(Points):
    """A point of which no more exists at a time than the running operator takes."""

    partial = True

    def __init__(self, parameters: Sequence[Tensor], writer: Writer, dtype: torch.dtype) -> None:
        super().__init__(parameters, writer, dtype)
        self._values = [absent(p, dtype, writer.device) for p in parameters]
        self._kept: dict[int, Tensor] = {}
        self._watch = Substitution(parameters, self._write, dtype, everywhere=True, device=writer.device)

    def keep(self, unseen: AbstractSet[int]) -> bool:
        """Has weights exist all the time that no operator was seen to take: what is no operator may read their memory.

        Args:
            unseen: Their positions.

        Returns:
            Whether there is one that did not before.
        """
        new = unseen - self._kept.keys()
        for t in new:
            p, device = self._parameters[t], self._writer.device
            self._kept[t] = torch.empty_like(p, dtype=self._dtype, device=device, requires_grad=False)
            self._values[t] = self._kept[t]
        return bool(new)

    @contextmanager
    def _at(self, point: Point) -> Iterator[None]:
        self._writer.write_all(self._kept, point)
        self._point = point
        with standing_at(self._parameters, self._values), self._watch.active():
            yield
