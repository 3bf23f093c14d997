r"""Symmetric positive definite blocks: their Cholesky factors, and directions divided by them.

A tensor is rows of ``width`` elements, and a row consecutive blocks of ``size``, the last one shorter. Of each block
the lower triangle is stored, row by row, and the blocks of a row one after the other: shape ``[rows, packed]``.

Per block, in float64, every operation one rounding, none fused, each element of A and v diminished in the order given::

    A L' = L L^T     for k = 0, 1, ...:  L[k,k] = sqrt(A[k,k]);   L[i,k] = A[i,k] / L[k,k]
                                         A[i,j] = A[i,j] - L[i,k] L[j,k]               for i >= j > k
    L^T z = v        for i = s-1, ...:   z[i] = v[i] / L[i,i];    v[j] = v[j] - L[i,j] z[i]   for j < i
    L M = I          for k = 0, 1, ...:  M[k,:] = R[k,:] / L[k,k];  R[i,:] = R[i,:] - L[i,k] M[k,:]  for i > k

The average that advances A is the elementwise one of every product, its operations in that order::

    A' = (1-nu) A + nu (d d^T + eps I)      in fp32;  A'[i,i] at least floor

L is rounded to fp32 once A has been factored, and z once a block is done; what follows a factor is of the rounded L.
The trace of a block's inverse is that of M^T M: the squares of M are added row by row, then the columns' sums.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_CHUNKS = {"cpu": 1 << 20}  # numbers at a time: bounds the float64 scratch
_CHUNK = 1 << 24  # where an operation is dear beside what it does


def triangle(size: int) -> int:
    """Elements of a lower triangle, its diagonal included."""
    return size * (size + 1) // 2


class Blocks(NamedTuple):
    """How a tensor is cut.

    Attributes:
        rows: Rows.
        width: Elements of a row.
        size: Elements of a block; no more than a row has.
    """

    rows: int
    width: int
    size: int

    @classmethod
    def of(cls, shape: Sequence[int], size: int) -> Blocks:
        """The blocks of a tensor: ``[out, rest]`` where it has two dimensions or more, else one row."""
        rows = shape[0] if len(shape) > 1 else 1
        width = math.prod(shape[1:] if len(shape) > 1 else shape)
        return cls(rows, width, max(1, min(size, width)))

    @property
    def packed(self) -> int:
        """Numbers that the blocks of a row are stored in."""
        whole, rest = divmod(self.width, self.size)
        return whole * triangle(self.size) + triangle(rest)

    @property
    def parts(self) -> list[tuple[slice, slice, int, int]]:
        """Blocks of one size: where their elements and their packed numbers are in a row, their number and size."""
        whole, rest = divmod(self.width, self.size)
        cut, edge = whole * self.size, whole * triangle(self.size)
        parts = [
            (slice(0, cut), slice(0, edge), whole, self.size),
            (slice(cut, self.width), slice(edge, self.packed), 1, rest),
        ]
        return [part for part in parts if part[2] and part[3]]

    @property
    def diagonal(self) -> NDArray[np.int64]:
        """Where in a row's packed numbers the diagonals are, in the order of the elements."""
        found = []
        for _, packed, count, size in self.parts:
            own = np.cumsum(np.arange(1, size + 1)) - 1
            found.append((packed.start + np.arange(count)[:, None] * triangle(size) + own).reshape(-1))
        return np.concatenate([np.empty(0, dtype=np.int64), *found])


class Average(NamedTuple):
    """The moving average of a direction's products, as fp32 has its constants.

    Attributes:
        keep: Weight of A, 1 - nu.
        nu: Weight of the products.
        eps: Added to the squares.
        floor: Smallest value on the diagonal.
    """

    keep: np.float32
    nu: np.float32
    eps: np.float32
    floor: np.float32


class BlockFactor(ABC):
    """The factors L of a tensor's blocks.

    Attributes:
        blocks: How the tensor is cut.
    """

    blocks: Blocks

    @abstractmethod
    def solve(self, values: Tensor) -> Tensor:
        """z = L^-T times fp32 values of the tensor's number of elements, in its shape; new memory."""

    @abstractmethod
    def of_rows(self, rows: Tensor) -> BlockFactor:
        """The factors of some rows, by their indices."""

    @abstractmethod
    def inverse_traces(self) -> NDArray[np.float64]:
        """The trace of each block's inverse, in the order of the elements."""


def sqrt64(values: Tensor) -> Tensor:
    """Square root of float64 numbers, correctly rounded: on the CPU torch goes through a library that may not be."""
    if values.device.type == "cpu":
        with np.errstate(invalid="ignore"):
            return torch.from_numpy(np.sqrt(values.numpy()))
    return torch.sqrt(values)


def advance(hessian: Tensor, blocks: Blocks, d: Tensor, average: Average) -> None:
    """Advances packed blocks in place by the products of a direction's elements."""
    keep, nu, eps, floor = map(float, average)
    flat = d.reshape(blocks.rows, blocks.width)
    for elements, packed, count, size in blocks.parts:
        i, j = (index.to(hessian.device) for index in torch.tril_indices(size, size))
        on = torch.nonzero(i == j).reshape(-1)
        for rows in _chunks(blocks.rows, packed.stop - packed.start, hessian.device):
            part, h = flat[rows, elements].reshape(-1, count, size), hessian[rows, packed].view(-1, count, len(i))
            fresh = part[:, :, i] * part[:, :, j]
            fresh[:, :, on] += eps
            h *= keep
            h += fresh * nu
            diagonal = h[:, :, on]
            h[:, :, on] = torch.where(diagonal < floor, floor, diagonal)


class TorchFactor(BlockFactor):
    """Factors by plain torch operations, on any device: one operation for all blocks of a size.

    Args:
        blocks: How the tensor is cut.
        factors: For each of ``blocks.parts`` the packed factors, fp32, shape ``[triangle, rows, count]``.
    """

    def __init__(self, blocks: Blocks, factors: Sequence[Tensor]) -> None:
        self.blocks = blocks
        self._factors = factors

    @classmethod
    def made(cls, hessian: Tensor, blocks: Blocks) -> TorchFactor | None:
        """The factors of packed blocks, fp32 ``[rows, packed]``; None where one is not positive definite."""
        factors, positive = [], []
        for _, packed, count, size in blocks.parts:
            i, j = (index.to(hessian.device) for index in torch.tril_indices(size, size))
            factor = hessian.new_empty(triangle(size), blocks.rows, count)
            for rows in _chunks(blocks.rows, count * size * size, hessian.device):
                a = hessian.new_zeros((size, size, rows.stop - rows.start, count), dtype=torch.float64)
                a[i, j] = hessian[rows, packed].reshape(-1, count, triangle(size)).movedim(2, 0).to(torch.float64)
                for k in range(size):
                    positive.append((a[k, k] > 0.0).all())
                    a[k, k] = sqrt64(a[k, k])
                    a[k + 1 :, k] /= a[k, k].clone()
                    column = a[k + 1 :, k]
                    a[k + 1 :, k + 1 :] -= column[:, None] * column[None]
                factor[:, rows] = a[i, j].to(torch.float32)
            factors.append(factor)
        return cls(blocks, factors) if not positive or bool(torch.stack(positive).all()) else None

    def solve(self, values: Tensor) -> Tensor:
        """By one operation for the elements of a place in all blocks of a size."""
        flat = values.reshape(self.blocks.rows, self.blocks.width)
        out = torch.empty_like(flat, memory_format=torch.contiguous_format)
        for (elements, _, count, size), factor in zip(self.blocks.parts, self._factors, strict=True):
            for rows in _chunks(self.blocks.rows, count * size, factor.device):
                v = flat[rows, elements].reshape(-1, count, size).movedim(2, 0).to(torch.float64)
                for i in reversed(range(size)):
                    row = factor[triangle(i) : triangle(i + 1), rows].to(torch.float64)
                    v[i] /= row[i]
                    v[:i] -= row[:i] * v[i]
                out[rows, elements] = v.to(torch.float32).movedim(0, 2).reshape(-1, count * size)
        return out.view(values.shape)

    def of_rows(self, rows: Tensor) -> TorchFactor:
        """By indexing."""
        return TorchFactor(self.blocks._replace(rows=len(rows)), [factor[:, rows] for factor in self._factors])

    def inverse_traces(self) -> NDArray[np.float64]:
        """By the inverse factors of all blocks of a size."""
        found = []
        for (_, _, count, size), factor in zip(self.blocks.parts, self._factors, strict=True):
            traces = factor.new_empty((self.blocks.rows, count), dtype=torch.float64)
            for rows in _chunks(self.blocks.rows, count * size * size, factor.device):
                wide = factor[:, rows].to(torch.float64)
                rest = torch.eye(size, dtype=torch.float64, device=wide.device)[:, :, None, None]
                rest = rest.repeat(1, 1, *wide.shape[1:])
                squares = torch.zeros_like(rest[0])
                for k in range(size):
                    rest[k] /= wide[triangle(k) + k]
                    squares += rest[k] * rest[k]
                    for i in range(k + 1, size):
                        rest[i] -= wide[triangle(i) + k] * rest[k]
                total = squares[0]
                for column in squares[1:]:
                    total = total + column
                traces[rows] = total
            found.append(traces)
        if not found:
            return np.empty(0, dtype=np.float64)
        return torch.cat(found, dim=1).reshape(-1).cpu().numpy()


def _chunks(rows: int, row: int, device: torch.device) -> Iterator[slice]:
    step = max(1, _CHUNKS.get(device.type, _CHUNK) // max(1, row))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))
