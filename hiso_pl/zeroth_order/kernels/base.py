"""The interface of a kernel backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.zeroth_order.kernels import blocks as torch_blocks
from hiso_pl.zeroth_order.kernels.blocks import Average, BlockFactor, Blocks
from hiso_pl.zeroth_order.streams import Site

NUMERICS = 1
"""Number of the order of evaluation. Any change to a result's bits is a new number."""

Backend = Literal["auto", "reference", "numba", "triton", "torch"]
BACKENDS: tuple[str, ...] = get_args(Backend)

LEAF = 1024
"""Elements a leaf of the summation tree holds; also the block the CPU kernel works through at a time."""


HessianUpdate = Literal["last", "first", "all"]
HESSIAN_UPDATES: tuple[str, ...] = get_args(HessianUpdate)

T = TypeVar("T")


def advancing(steps: HessianUpdate, values: Sequence[T]) -> Sequence[T]:
    """Of what there is for each local step, in order, that of the steps in which H advances."""
    return {"last": values[-1:], "first": values[:1], "all": values}[steps]


class Decay(NamedTuple):
    """The moving average that advances an elementwise Hessian inside the update.

    Attributes:
        nu: Weight of the new square.
        eps: Added to the square.
        floor: Smallest value of H.
        steps: The local steps whose D it takes, in order: the ``last``, the ``first``, or ``all``.
    """

    nu: float
    eps: float
    floor: float
    steps: HessianUpdate


class Offset(NamedTuple):
    """The displacement ``mu * u_p`` of a probe; ``mu`` is negative for the other side of a central difference."""

    p: int
    mu: float


def tree_sum(values: NDArray[np.float64]) -> float:
    """Sums float64 numbers by a fixed tree: the same bits whatever the device, the chunking or the threads.

    The values are padded with zeros to whole leaves of 1024, each leaf is halved ten times by adding its upper half
    to its lower half, and the sums of the leaves are summed the same way.
    """
    while True:
        leaves = max(1, -(-len(values) // LEAF))
        padded = np.zeros(leaves * LEAF, dtype=np.float64)
        padded[: len(values)] = values
        level = padded.reshape(leaves, LEAF)
        while level.shape[1] > 1:
            half = level.shape[1] // 2
            level = level[:, :half] + level[:, half:]
        values = level[:, 0]
        if leaves == 1:
            return float(values[0])


class Kernels(ABC):
    """Passes over one tensor. ``base``, ``x`` and an elementwise ``hessian`` are fp32 of one shape.

    ``hessian`` is None, a tensor of one element, or elementwise. Weights are fp32 on the host: they are the
    scalars of a round, a handful. Elements are counted row-major by logical index, whatever the strides.

    ``out`` is fp32, or bf16 or fp16 for a probe point: then it holds the fp32 result, rounded to nearest even once.
    """

    @abstractmethod
    def combine(self, out: Tensor, site: Site, k: int, weights: NDArray[np.float32]) -> None:
        """Writes ``s_k = sum_p weights[p] * u(r, k, p)`` to ``out``; ``weights`` has shape ``[P]``."""

    @abstractmethod
    def displace(
        self,
        out: Tensor,
        base: Tensor,
        hessian: Tensor | None,
        site: Site,
        k: int,
        offset: Offset | None,
        drift: NDArray[np.float32],
        lr: float,
        rows: Tensor | None = None,
    ) -> None:
        """Writes a probe point, or some rows of one, to ``out``.

        Args:
            out: Where to: of the shape of ``base``, or contiguous ``[n, width]`` for n rows of ``width`` elements.
            base: The round's x, left as it is.
            hessian: H of the round.
            site: The tensor's stream.
            k: Local step of the probe.
            offset: Direction and signed mu, or None for the local point itself.
            drift: Weights of the client's own earlier local steps, shape ``[k, P]``; may have no rows.
            lr: Learning rate of the local moves.
            rows: Indices into the first dimension of ``base``, int64 ``[n]`` on its device, repeats allowed; None
                writes the whole tensor.
        """

    @abstractmethod
    def update(
        self,
        x: Tensor,
        hessian: Tensor | None,
        site: Site,
        weights: NDArray[np.float32],
        lr: float,
        decay: Decay | None,
        squares: bool,
    ) -> NDArray[np.float64] | None:
        """Moves ``x`` and advances an elementwise ``hessian``, in place and in one pass.

        Args:
            x: The parameters.
            hessian: H of the round; advanced if ``decay`` is given, which needs it elementwise.
            site: The tensor's stream.
            weights: The round's weights, shape ``[tau, P]``.
            lr: Learning rate.
            decay: The moving average, or None to leave H alone.
            squares: Whether to return the sums of squares.

        Returns:
            The sums of ``D_k * D_k`` over the tensor by :func:`tree_sum`, shape ``[tau]``, if asked for.
        """

    def factor(self, hessian: Tensor, blocks: Blocks, before: BlockFactor | None = None) -> BlockFactor | None:
        """Cholesky factors of a tensor's blocks; None where one is not positive definite.

        Args:
            hessian: The blocks, packed, fp32 ``[rows, packed]``.
            blocks: How the tensor is cut.
            before: Factors that are done with, whose memory may serve again.
        """
        return torch_blocks.TorchFactor.made(hessian, blocks)

    def advance_blocks(self, hessian: Tensor, blocks: Blocks, d: Tensor, average: Average) -> None:
        """Advances a tensor's blocks, packed, in place by the products of the elements of D."""
        torch_blocks.advance(hessian, blocks, d, average)

    # Networks hold hundreds of tensors. Where a call is dear beside a pass, a backend takes them all in one.

    def displace_all(
        self,
        outs: Sequence[Tensor],
        bases: Sequence[Tensor],
        hessians: Sequence[Tensor | None],
        sites: Sequence[Site],
        k: int,
        offset: Offset | None,
        drift: NDArray[np.float32],
        lr: float,
    ) -> None:
        """:meth:`displace` of several tensors, whole."""
        for out, base, hessian, site in zip(outs, bases, hessians, sites, strict=True):
            self.displace(out, base, hessian, site, k, offset, drift, lr)

    def update_all(
        self,
        xs: Sequence[Tensor],
        hessians: Sequence[Tensor | None],
        sites: Sequence[Site],
        weights: NDArray[np.float32],
        lr: float,
        decay: Decay | None,
        squares: bool,
    ) -> NDArray[np.float64] | None:
        """:meth:`update` of several tensors; the sums of squares, if asked for, have shape ``[tensors, tau]``."""
        sums = [
            self.update(x, hessian, site, weights, lr, decay, squares)
            for x, hessian, site in zip(xs, hessians, sites, strict=True)
        ]
        return np.stack([row for row in sums if row is not None]) if squares and sums else None
