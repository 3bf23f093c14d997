# mypy: allow-untyped-defs
"""Blocks on the CPU by compiled loops: the operations of :mod:`.blocks`, eight blocks side by side, with the same bits.

The functions carry no annotations, as those of :mod:`.numba_loops`. Blocks of a size are taken in groups of
:data:`LANES`, which the innermost loops run over; threads split the groups. Lanes without a block hold the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numba import njit  # type: ignore[attr-defined]
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.zeroth_order.kernels.blocks import Average, BlockFactor, Blocks, triangle

LANES = 8

_jit: Callable[[Any], Any] = njit(nogil=True, cache=True, error_model="numpy")
Split = Callable[[int, Callable[[int, int], None]], None]


@_jit
def _diminish(y, a, b):
    """y = y - a b, lane by lane."""
    for w in range(LANES):
        y[w] -= a[w] * b[w]


@_jit
def _advance(packed, d, size, keep, nu, eps, floor, lo, hi):
    """Advances the packed blocks of rows."""
    width = d.shape[1]
    for r in range(lo, hi):
        at = 0
        for block in range((width + size - 1) // size):
            part = d[r, block * size : min(width, (block + 1) * size)]
            for i in range(part.size):
                row, x = packed[r, at : at + i + 1], part[i]
                for j in range(i):
                    row[j] = keep * row[j] + nu * (x * part[j])
                last = keep * row[i] + nu * (x * x + eps)
                row[i] = floor if last < floor else last
                at += i + 1
    return True


@_jit
def _factor(packed, count, size, out, lo, hi):
    """Factors groups; returns whether all blocks are positive definite. ``packed`` has a row for each of the tensor's.

    ``out`` has shape ``[groups, triangle, lanes]``.
    """
    a, column = np.empty((size, size, LANES), dtype=np.float64), np.empty((size, LANES), dtype=np.float64)
    numbers, blocks = size * (size + 1) // 2, packed.shape[0] * count
    for g in range(lo, hi):
        for w in range(LANES):
            block = g * LANES + w
            if block < blocks:
                source = packed[block // count, (block % count) * numbers : (block % count + 1) * numbers]
                q = 0
                for i in range(size):
                    for j in range(i + 1):
                        a[i, j, w] = source[q]
                        q += 1
            else:
                for i in range(size):
                    a[i, : i + 1, w] = 0.0
                    a[i, i, w] = 1.0
        for k in range(size):
            pivot = a[k, k]
            for w in range(LANES):
                if not pivot[w] > 0.0:
                    return False
            for w in range(LANES):
                pivot[w] = np.sqrt(pivot[w])
            for i in range(k + 1, size):
                x, y = a[i, k], column[i]
                for w in range(LANES):
                    y[w] = x[w] / pivot[w]
                for w in range(LANES):
                    x[w] = y[w]
            for i in range(k + 1, size):
                for j in range(k + 1, i + 1):
                    _diminish(a[i, j], column[i], column[j])
        group, q = out[g], 0
        for i in range(size):
            for j in range(i + 1):
                for w in range(LANES):
                    group[q, w] = np.float32(a[i, j, w])
                q += 1
    return True


@_jit
def _solve(values, start, count, size, factor, out, lo, hi):
    """Solves groups; ``values`` and ``out`` have the tensor's rows, in which the blocks begin at ``start``."""
    v, z = np.empty((size, LANES), dtype=np.float64), np.empty(LANES, dtype=np.float64)
    blocks = values.shape[0] * count
    for g in range(lo, hi):
        group, lanes = factor[g], min(LANES, blocks - g * LANES)
        for w in range(lanes):
            block = g * LANES + w
            first = start + (block % count) * size
            source = values[block // count, first : first + size]
            for i in range(size):
                v[i, w] = source[i]
        for i in range(size - 1, -1, -1):
            row, x = group[i * (i + 1) // 2 :], v[i]
            pivot = row[i]
            for w in range(LANES):
                z[w] = x[w] / pivot[w]
            for w in range(LANES):
                x[w] = z[w]
            for j in range(i):
                _diminish(v[j], row[j], z)
        for w in range(lanes):
            block = g * LANES + w
            first = start + (block % count) * size
            target = out[block // count, first : first + size]
            for i in range(size):
                target[i] = np.float32(v[i, w])
    return True


@_jit
def _inverse_traces(factor, size, out, lo, hi):
    """The traces of groups; ``out`` has shape ``[groups, lanes]``."""
    rest, squares = np.empty((size, size, LANES), dtype=np.float64), np.empty((size, LANES), dtype=np.float64)
    for g in range(lo, hi):
        group = factor[g]
        rest[:] = 0.0
        squares[:] = 0.0
        for i in range(size):
            rest[i, i] = 1.0
        for k in range(size):
            pivot = group[k * (k + 1) // 2 + k]
            for j in range(k + 1):
                x, y = rest[k, j], squares[j]
                for w in range(LANES):
                    x[w] /= pivot[w]
                    y[w] += x[w] * x[w]
            for i in range(k + 1, size):
                c = group[i * (i + 1) // 2 + k]
                for j in range(k + 1):
                    _diminish(rest[i, j], c, rest[k, j])
        total = squares[0]
        for j in range(1, size):
            for w in range(LANES):
                total[w] += squares[j, w]
        out[g] = total
    return True


def _run(split: Split, groups: int, loop: Callable[..., bool], *args: Any) -> bool:
    """Runs a loop over groups; whether all went well."""
    good: list[bool] = []
    split(groups, lambda lo, hi: good.append(loop(*args, lo, hi)))
    return all(good)


def advance(hessian: Tensor, blocks: Blocks, d: Tensor, average: Average, split: Split) -> None:
    """As :func:`.blocks.advance`, in one pass."""
    packed, flat = hessian.detach().contiguous(), d.detach().reshape(blocks.rows, blocks.width).contiguous()
    _run(split, blocks.rows, _advance, packed.numpy(), flat.numpy(), blocks.size, *average)
    if packed.data_ptr() != hessian.data_ptr():
        hessian.copy_(packed)


class NumbaFactor(BlockFactor):
    """Factors by compiled loops.

    Args:
        blocks: How the tensor is cut.
        factors: For each of ``blocks.parts`` the packed factors, fp32, shape ``[groups, triangle, lanes]``.
        split: What shares groups among threads.
    """

    def __init__(self, blocks: Blocks, factors: Sequence[NDArray[np.float32]], split: Split) -> None:
        self.blocks = blocks
        self._factors = factors
        self._split = split

    @classmethod
    def made(cls, hessian: Tensor, blocks: Blocks, split: Split, before: BlockFactor | None) -> NumbaFactor | None:
        """As :meth:`.blocks.TorchFactor.made`, in the memory of the factors before: new memory costs more than they."""
        source, positive = hessian.detach().contiguous().numpy(), True
        factors: Sequence[NDArray[np.float32]] = [
            np.empty((-(-blocks.rows * count // LANES), triangle(size), LANES), dtype=np.float32)
            for _, _, count, size in blocks.parts
        ]
        if isinstance(before, NumbaFactor) and before.blocks == blocks:
            factors = before._factors
        for (_, packed, count, size), factor in zip(blocks.parts, factors, strict=True):
            positive &= _run(split, len(factor), _factor, source[:, packed], count, size, factor)
        return cls(blocks, factors, split) if positive else None

    def solve(self, values: Tensor) -> Tensor:
        """In one pass."""
        source = values.detach().reshape(self.blocks.rows, self.blocks.width).contiguous()
        out = torch.empty_like(source)
        given, target = source.numpy(), out.numpy()
        for (elements, _, count, size), factor in zip(self.blocks.parts, self._factors, strict=True):
            _run(self._split, len(factor), _solve, given, elements.start, count, size, factor, target)
        return out.view(values.shape)

    def of_rows(self, rows: Tensor) -> NumbaFactor:
        """By indexing."""
        factors = []
        for (_, _, count, size), factor in zip(self.blocks.parts, self._factors, strict=True):
            chosen = (rows.numpy()[:, None] * count + np.arange(count)).reshape(-1)
            taken = np.ones((-(-len(chosen) // LANES), LANES, triangle(size)), dtype=np.float32)
            taken.reshape(-1, triangle(size))[: len(chosen)] = factor[chosen // LANES, :, chosen % LANES]
            factors.append(np.ascontiguousarray(taken.swapaxes(1, 2)))
        return NumbaFactor(self.blocks._replace(rows=len(rows)), factors, self._split)

    def inverse_traces(self) -> NDArray[np.float64]:
        """In one pass."""
        found = []
        for (_, _, count, size), factor in zip(self.blocks.parts, self._factors, strict=True):
            out = np.empty((len(factor), LANES), dtype=np.float64)
            _run(self._split, len(factor), _inverse_traces, factor, size, out)
            found.append(out.reshape(-1)[: self.blocks.rows * count].reshape(self.blocks.rows, count))
        return np.concatenate(found, axis=1).reshape(-1) if found else np.empty(0, dtype=np.float64)
