"""Plain torch operations on any device: the correct path where there is no faster one.

Philox runs in int64: a product of two 32-bit words wraps to the right 64 bits, and a mask after the shift takes off the
sign. Every floating-point operation is a torch operation of its own, so none is fused; nothing here may be compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.zeroth_order.kernels.base import LEAF, Decay, Kernels, Offset, advancing, tree_sum
from hiso_pl.zeroth_order.philox import KEY_INCREMENTS, MULTIPLIERS, ROUNDS, Purpose
from hiso_pl.zeroth_order.streams import (
    COS_COEFFICIENTS,
    LN_2,
    LOG_COEFFICIENTS,
    MAX_RANK,
    PI_4,
    SIN_COEFFICIENTS,
    SQRT_HALF,
    Site,
)

_MASK32 = 0xFFFFFFFF
_CHUNK = 1 << 20  # elements at a time: bounds the int64 scratch; a multiple of every block size


def _fp32(value: float) -> float:
    """Rounds a Python float to fp32 once; torch then takes it without another rounding."""
    return float(np.float32(value))


def sqrt(values: Tensor) -> Tensor:
    """Square root, correctly rounded.

    ``torch.sqrt`` on CPU tensors goes through a vector library that misses the last bit for one number in five. A
    float64 root has more than twice the bits and two to spare, so rounding it once more gives the correct fp32 root.
    """
    return torch.sqrt(values.to(torch.float64)).to(torch.float32)


def _words(blocks: Tensor, site: Site, k: int, p: int, purpose: Purpose = Purpose.DIRECTIONS) -> list[Tensor]:
    c = [
        blocks,
        torch.full_like(blocks, site.tensor),
        torch.full_like(blocks, site.round),
        torch.full_like(blocks, site.word(k, p, purpose=purpose)),
    ]
    k0, k1 = site.seed & _MASK32, site.seed >> 32
    for _ in range(ROUNDS):
        a, b = c[0] * MULTIPLIERS[0], c[2] * MULTIPLIERS[1]
        c = [((b >> 32) & _MASK32) ^ c[1] ^ k0, b & _MASK32, ((a >> 32) & _MASK32) ^ c[3] ^ k1, a & _MASK32]
        k0, k1 = (k0 + KEY_INCREMENTS[0]) & _MASK32, (k1 + KEY_INCREMENTS[1]) & _MASK32
    return c


def _log(u: Tensor) -> Tensor:
    bits = u.view(torch.int32)
    exponent = (bits >> 23) - 126
    mantissa = ((bits & 0x007FFFFF) | 0x3F000000).view(torch.float32)
    low = mantissa < _fp32(SQRT_HALF)
    exponent = torch.where(low, exponent - 1, exponent).to(torch.float32)
    x = torch.where(low, mantissa + mantissa, mantissa) - 1.0
    w = x * x
    y = torch.full_like(x, _fp32(LOG_COEFFICIENTS[0]))
    for coefficient in LOG_COEFFICIENTS[1:]:
        y = y * x
        y = y + _fp32(coefficient)
    y = y * x
    y = y * w
    y = y - w * 0.5
    return (x + y) + exponent * _fp32(LN_2)


def _sine_cosine(b: Tensor) -> tuple[Tensor, Tensor]:
    q = b >> 29
    t = ((b & 0x1FFFFFFF) >> 5).to(torch.float32) * 2.0**-24
    t = t * _fp32(PI_4)
    t = torch.where((q & 1) != 0, _fp32(PI_4) - t, t)
    w = t * t
    s0, s1, s2 = (_fp32(c) for c in SIN_COEFFICIENTS)
    c0, c1, c2 = (_fp32(c) for c in COS_COEFFICIENTS)
    sine = ((w * s0 + s1) * w + s2) * w
    sine = sine * t + t
    cosine = ((w * c0 + c1) * w + c2) * w
    cosine = cosine * w
    cosine = cosine - w * 0.5
    cosine = cosine + 1.0
    swap = ((q + 1) & 2) != 0
    sine, cosine = torch.where(swap, cosine, sine), torch.where(swap, sine, cosine)
    return torch.where((q & 4) != 0, -sine, sine), torch.where(((q + 2) & 4) != 0, -cosine, cosine)


def _box_muller(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    u = (a.to(torch.float32) + 1.0) * 2.0**-32
    radius = sqrt(_log(u) * -2.0)
    sine, cosine = _sine_cosine(b)
    return radius * cosine, radius * sine


class _Span(NamedTuple):
    """Elements of a tensor: a range, or some of its rows one after the other.

    Attributes:
        device: Where the tensor is.
        width: Elements of the range, or of a row.
        first: First element of a range, a multiple of 128.
        rows: The rows, int64, shape ``[n]``.
    """

    device: torch.device
    width: int
    first: int = 0
    rows: Tensor | None = None

    def take(self, values: Tensor) -> Tensor:
        """Its elements of a tensor, flat."""
        if self.rows is None:
            return values.reshape(-1)[self.first : self.first + self.width]
        return values[self.rows].reshape(-1)


def _normals(w: list[Tensor]) -> Tensor:
    """Four normals from the four words of each call, shape ``[calls, 4]``."""
    return torch.stack([*_box_muller(w[0], w[1]), *_box_muller(w[2], w[3])], dim=1)


def _factors(site: Site, purpose: Purpose, k: int, p: int, indices: Tensor) -> Tensor:
    """U of some rows, or V of columns, shape ``[rank, n]``; only calls that give some of it are made."""
    calls = torch.arange(-(-site.rank // 4), device=indices.device)
    blocks = (indices[:, None] * (MAX_RANK // 4) + calls).reshape(-1)
    return _normals(_words(blocks, site, k, p, purpose)).view(len(indices), -1)[:, : site.rank].t()


def _low_rank(site: Site, k: int, p: int, span: _Span) -> Tensor:
    """The span's elements of a direction of low rank, flat."""
    device, columns = span.device, site.columns
    if span.rows is not None:
        u = _factors(site, Purpose.ROWS, k, p, span.rows)[:, :, None]
        v = _factors(site, Purpose.COLUMNS, k, p, torch.arange(columns, device=device))[:, None, :]
    else:
        element = torch.arange(span.first, span.first + span.width, device=device)
        row, column = element // columns, element % columns
        first, last = span.first // columns, (span.first + span.width - 1) // columns
        u = _factors(site, Purpose.ROWS, k, p, torch.arange(first, last + 1, device=device))[:, row - first]
        if columns < span.width:
            v = _factors(site, Purpose.COLUMNS, k, p, torch.arange(columns, device=device))[:, column]
        else:
            v = _factors(site, Purpose.COLUMNS, k, p, column)
    total = u[0] * v[0]
    for j in range(1, site.rank):
        total = total + u[j] * v[j]
    return (total * _fp32(1.0 / math.sqrt(site.rank))).reshape(-1)


def _direction(site: Site, k: int, p: int, span: _Span) -> Tensor:
    """The span's elements of a direction, flat. Whole blocks are drawn, and what lies around a row is cut off."""
    if site.columns:
        return _low_rank(site, k, p, span)
    per_block = 128 if site.distribution == "rademacher" else 4
    if span.rows is None:
        skip = None
        blocks = torch.arange(-(-span.width // per_block), dtype=torch.int64, device=span.device)
        blocks = blocks + span.first // per_block
    else:
        starts = span.rows[:, None] * span.width
        skip = starts % per_block
        count = -(-(span.width + per_block - 1) // per_block)
        blocks = (starts // per_block + torch.arange(count, device=span.device)).reshape(-1)
    w = _words(blocks, site, k, p)
    if site.distribution == "rademacher":
        bits = torch.stack(w, dim=1)[:, :, None] >> torch.arange(32, device=blocks.device) & 1
        values = 1.0 - bits.to(torch.float32) * 2.0
    else:
        values = _normals(w)
    if skip is None:
        return values.reshape(-1)[: span.width]
    columns = skip + torch.arange(span.width, device=span.device)
    return values.reshape(len(skip), -1).gather(1, columns).reshape(-1)


def _chunks(tensor: Tensor) -> Iterator[_Span]:
    for start in range(0, tensor.numel(), _CHUNK):
        yield _Span(tensor.device, min(_CHUNK, tensor.numel() - start), first=start)


def _weighted_sum(site: Site, k: int, weights: NDArray[np.float32], span: _Span) -> Tensor:
    s = _direction(site, k, 0, span) * float(weights[0])
    for p in range(1, len(weights)):
        s = s + _direction(site, k, p, span) * float(weights[p])
    return s


def _root(hessian: Tensor | None, span: _Span) -> Tensor | None:
    if hessian is None:
        return None
    return sqrt(hessian.reshape(-1) if hessian.numel() == 1 else span.take(hessian))


def _divide(values: Tensor, root: Tensor | None) -> Tensor:
    return values if root is None else values / root


def _leaf_sums(values: Tensor) -> Tensor:
    """Sums of the leaves of the summation tree over one chunk of float64 numbers."""
    leaves = -(-values.numel() // LEAF)
    padded = torch.zeros(leaves * LEAF, dtype=torch.float64, device=values.device)
    padded[: values.numel()] = values
    level = padded.view(leaves, LEAF)
    while level.shape[1] > 1:
        half = level.shape[1] // 2
        level = level[:, :half] + level[:, half:]
    return level[:, 0]


def squares_sum(values: Tensor) -> float:
    """The sum of the squares of fp32 values along the summation tree, in float64."""
    return _total(values, lambda wide: wide * wide)


def inverse_sum(values: Tensor) -> float:
    """The sum of the inverses of fp32 values along the summation tree, in float64."""
    return _total(values, lambda wide: torch.ones_like(wide) / wide)


def _total(values: Tensor, term: Callable[[Tensor], Tensor]) -> float:
    flat = values.detach().reshape(-1)
    leaves = [_leaf_sums(term(span.take(flat).to(torch.float64))) for span in _chunks(flat)]
    return tree_sum(torch.cat(leaves).cpu().numpy()) if leaves else 0.0


def _point(
    base: Tensor,
    hessian: Tensor | None,
    site: Site,
    k: int,
    offset: Offset | None,
    drift: NDArray[np.float32],
    lr: float,
    span: _Span,
) -> Tensor:
    """The span's elements of a probe point other than x itself, flat, fp32."""
    v = None
    if offset is not None:
        v = _direction(site, k, offset.p, span) * _fp32(offset.mu)
    if len(drift):
        total = _weighted_sum(site, 0, drift[0], span)
        for j in range(1, len(drift)):
            total = total + _weighted_sum(site, j, drift[j], span)
        total = total * _fp32(lr)
        v = -total if v is None else v - total
    assert v is not None
    return span.take(base.detach()) + _divide(v, _root(hessian, span))


class TorchKernels(Kernels):
    """See :class:`~hiso_pl.zeroth_order.kernels.Kernels`."""

    def combine(self, out: Tensor, site: Site, k: int, weights: NDArray[np.float32]) -> None:
        """s_k, a chunk at a time."""
        flat = torch.empty(out.numel(), dtype=torch.float32, device=out.device)
        for span in _chunks(out):
            span.take(flat).copy_(_weighted_sum(site, k, weights, span))
        out.copy_(flat.view(out.shape))

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
        """A probe point, a chunk at a time."""
        if offset is None and len(drift) == 0:
            out.copy_(base if rows is None else base[rows].view(out.shape))
            return
        if rows is None:
            flat = torch.empty(out.numel(), dtype=out.dtype, device=out.device)
            for span in _chunks(base):
                span.take(flat).copy_(_point(base, hessian, site, k, offset, drift, lr, span))
            out.copy_(flat.view(out.shape))
            return
        width = base[0].numel()
        target = out.view(len(rows), width)
        step = max(1, _CHUNK // max(1, width))
        for i in range(0, len(rows), step):
            span = _Span(base.device, width, rows=rows[i : i + step])
            target[i : i + step] = _point(base, hessian, site, k, offset, drift, lr, span).view(-1, width)

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
        """The update, a chunk at a time."""
        flat = x.detach().reshape(-1).clone()
        advanced = hessian.detach().reshape(-1).clone() if hessian is not None and decay is not None else None
        sums: list[list[Tensor]] = [[] for _ in weights]
        for span in _chunks(x):
            root = _root(hessian, span)
            steps = [_weighted_sum(site, k, weights[k], span) for k in range(len(weights))]
            total = steps[0]
            for s in steps[1:]:
                total = total + s
            moved = span.take(flat)
            moved -= _divide(total, root) * _fp32(lr)
            directions = [_divide(s, root) for s in steps]
            if advanced is not None and decay is not None:
                h = span.take(advanced)
                for d in advancing(decay.steps, directions):
                    fresh = (d * d + _fp32(decay.eps)) * _fp32(decay.nu)
                    h = h * _fp32(1.0 - decay.nu) + fresh
                    h = torch.where(h < _fp32(decay.floor), _fp32(decay.floor), h)
                span.take(advanced).copy_(h)
            if squares:
                for k, d in enumerate(directions):
                    wide = d.to(torch.float64)
                    sums[k].append(_leaf_sums(wide * wide))
        x.copy_(flat.view(x.shape))
        if advanced is not None and hessian is not None:
            hessian.copy_(advanced.view(hessian.shape))
        if not squares:
            return None
        return np.array([tree_sum(torch.cat(rows).cpu().numpy()) if rows else 0.0 for rows in sums])
