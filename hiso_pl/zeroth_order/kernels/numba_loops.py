# mypy: allow-untyped-defs
"""The compiled loops of the CPU backend: blocks of 1024 elements, every direction of a block before the next.

A block's scratch stays in the first-level cache, so a pass reads and writes memory once however many directions it
takes. ``fastmath`` stays off: LLVM may then neither fuse a multiplication with an addition nor reorder a sum, while
elementwise loops still vectorise.

The functions carry no annotations: Numba infers their types from the arguments. All stand in this one file because
Numba's cache on disk is renewed when the file of a function changes, and not when that of one it calls does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from hiso_pl.zeroth_order.kernels.base import LEAF
from hiso_pl.zeroth_order.philox import KEY_INCREMENTS, MULTIPLIERS, ROUNDS
from hiso_pl.zeroth_order.streams import (
    COS_COEFFICIENTS,
    LN_2,
    LOG_COEFFICIENTS,
    PI_4,
    SIN_COEFFICIENTS,
    SQRT_HALF,
)

BLOCK = LEAF
_QUADS = BLOCK // 4

_M0, _M1 = (np.uint64(m) for m in MULTIPLIERS)
_W0, _W1 = (np.uint32(w) for w in KEY_INCREMENTS)
_S32 = np.uint64(32)
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8 = (np.float32(c) for c in LOG_COEFFICIENTS)
_S0, _S1, _S2 = (np.float32(c) for c in SIN_COEFFICIENTS)
_C0, _C1, _C2 = (np.float32(c) for c in COS_COEFFICIENTS)
_ZERO, _HALF, _ONE, _TWO = (np.float32(c) for c in (0, 0.5, 1, 2))
_SQRT_HALF, _LN_2, _PI_4 = np.float32(SQRT_HALF), np.float32(LN_2), np.float32(PI_4)
_2M32, _2M24 = np.float32(2.0**-32), np.float32(2.0**-24)
_U0, _U1, _U2, _U4, _U5, _U23, _U29 = (np.uint32(c) for c in (0, 1, 2, 4, 5, 23, 29))
_MANTISSA, _HALF_BITS, _ONE_BITS, _ANGLE = (np.uint32(c) for c in (0x007FFFFF, 0x3F000000, 0x3F800000, 0x1FFFFFFF))
# m < 0.70710678 compares mantissas where the exponents are equal; m + m then raises the exponent by one, exactly
_SQRT_HALF_MANTISSA = np.uint32(_SQRT_HALF.view(np.uint32) & _MANTISSA)
_I126, _I1 = np.int32(126), np.int32(1)

_jit: Callable[[Any], Any] = njit(nogil=True, cache=True, error_model="numpy")


@_jit
def _philox(first, count, tensor, rnd, word, key0, key1, w0, w1, w2, w3):
    for i in range(count):
        c0 = np.uint32(first + i)
        c1 = np.uint32(tensor)
        c2 = np.uint32(rnd)
        c3 = np.uint32(word)
        k0 = np.uint32(key0)
        k1 = np.uint32(key1)
        for _ in range(ROUNDS):
            a = _M0 * np.uint64(c0)
            b = _M1 * np.uint64(c2)
            c0 = np.uint32(np.uint32(b >> _S32) ^ c1 ^ k0)
            c1 = np.uint32(b)
            c2 = np.uint32(np.uint32(a >> _S32) ^ c3 ^ k1)
            c3 = np.uint32(a)
            k0 = np.uint32(k0 + _W0)
            k1 = np.uint32(k1 + _W1)
        w0[i] = c0
        w1[i] = c1
        w2[i] = c2
        w3[i] = c3


@_jit
def _box_muller(a, b, count, u, bits, exponent, even, odd):
    # bits is the memory of u read as integers. Loops that reinterpret stand apart from loops that compute: otherwise
    # the store and the load of the same bytes keep the compiler from vectorising either.
    for i in range(count):
        u[i] = (np.float32(a[i]) + _ONE) * _2M32
    for i in range(count):
        e = np.int32(np.int32(bits[i] >> _U23) - _I126)
        m = np.uint32(bits[i] & _MANTISSA)
        low = m < _SQRT_HALF_MANTISSA
        exponent[i] = np.float32(np.int32(e - _I1) if low else e)
        bits[i] = np.uint32(m | (_ONE_BITS if low else _HALF_BITS))
    for i in range(count):
        x = u[i] - _ONE
        w = x * x
        y = _L0 * x + _L1
        y = y * x + _L2
        y = y * x + _L3
        y = y * x + _L4
        y = y * x + _L5
        y = y * x + _L6
        y = y * x + _L7
        y = y * x + _L8
        y = y * x
        y = y * w
        y = y - _HALF * w
        u[i] = np.sqrt(-_TWO * ((x + y) + exponent[i] * _LN_2))
    for i in range(count):
        q = np.uint32(b[i] >> _U29)
        t = np.float32(np.int32(np.uint32((b[i] & _ANGLE) >> _U5))) * _2M24
        t = t * _PI_4
        t = _PI_4 - t if (q & _U1) != _U0 else t
        w = t * t
        sn = ((_S0 * w + _S1) * w + _S2) * w
        sn = sn * t + t
        cs = ((_C0 * w + _C1) * w + _C2) * w
        cs = cs * w
        cs = cs - _HALF * w
        cs = cs + _ONE
        swap = ((q + _U1) & _U2) != _U0
        sine = cs if swap else sn
        cosine = sn if swap else cs
        sine = -sine if (q & _U4) != _U0 else sine
        cosine = -cosine if ((q + _U2) & _U4) != _U0 else cosine
        even[i] = u[i] * cosine
        odd[i] = u[i] * sine


@_jit
def _draw(block, normal, tensor, rnd, word, key0, key1, words, floats, bits, u):
    """Fills ``u`` with the directions of elements ``1024 * block`` to ``1024 * block + 1023``."""
    if normal:
        _philox(block * _QUADS, _QUADS, tensor, rnd, word, key0, key1, words[0], words[1], words[2], words[3])
        _box_muller(words[0], words[1], _QUADS, floats[4], bits, floats[5], floats[0], floats[1])
        _box_muller(words[2], words[3], _QUADS, floats[4], bits, floats[5], floats[2], floats[3])
        for i in range(_QUADS):
            u[4 * i] = floats[0, i]
            u[4 * i + 1] = floats[1, i]
            u[4 * i + 2] = floats[2, i]
            u[4 * i + 3] = floats[3, i]
    else:
        calls = BLOCK // 128
        _philox(block * calls, calls, tensor, rnd, word, key0, key1, words[0], words[1], words[2], words[3])
        for i in range(calls):
            for j in range(4):
                w = words[j, i]
                for b in range(32):
                    u[128 * i + 32 * j + b] = _ONE - _TWO * np.float32(np.int32((w >> np.uint32(b)) & _U1))


@_jit
def _sum_directions(block, n, normal, tensor, rnd, weights, row, word, key0, key1, words, floats, bits, u, s):
    """s = ((w[0] u_0) + w[1] u_1) + ... of one block and local step; ``word`` is the counter word of p = 0."""
    for p in range(weights.shape[1]):
        _draw(block, normal, tensor, rnd, word + p, key0, key1, words, floats, bits, u)
        c = weights[row, p]
        if p == 0:
            for i in range(n):
                s[i] = c * u[i]
        else:
            for i in range(n):
                s[i] = s[i] + c * u[i]


@_jit
def combine(out, first, last, normal, tensor, rnd, word, key0, key1, weights):
    """Writes s_k of the blocks ``first`` to ``last - 1``."""
    words = np.empty((4, _QUADS), dtype=np.uint32)
    floats = np.empty((6, _QUADS), dtype=np.float32)
    bits = floats[4].view(np.uint32)
    u = np.empty(BLOCK, dtype=np.float32)
    s = np.empty(BLOCK, dtype=np.float32)
    for block in range(first, last):
        start = block * BLOCK
        n = min(BLOCK, out.size - start)
        _sum_directions(block, n, normal, tensor, rnd, weights, 0, word, key0, key1, words, floats, bits, u, s)
        for i in range(n):
            out[start + i] = s[i]


@_jit
def displace(
    out,
    base,
    hessian,
    kind,
    first,
    last,
    normal,
    tensor,
    rnd,
    probe_word,
    drift_word,
    key0,
    key1,
    offset,
    mu,
    drift,
    lr,
):
    """Writes a probe point in the blocks ``first`` to ``last - 1``; H's ``kind``: 0 none, 1 one, 2 elementwise."""
    words = np.empty((4, _QUADS), dtype=np.uint32)
    floats = np.empty((6, _QUADS), dtype=np.float32)
    bits = floats[4].view(np.uint32)
    u = np.empty(BLOCK, dtype=np.float32)
    s = np.empty(BLOCK, dtype=np.float32)
    total = np.empty(BLOCK, dtype=np.float32)
    for block in range(first, last):
        start = block * BLOCK
        n = min(BLOCK, out.size - start)
        for j in range(drift.shape[0]):
            word = drift_word + (j << 14)
            _sum_directions(block, n, normal, tensor, rnd, drift, j, word, key0, key1, words, floats, bits, u, s)
            if j == 0:
                for i in range(n):
                    total[i] = s[i]
            else:
                for i in range(n):
                    total[i] = total[i] + s[i]
        if offset:
            _draw(block, normal, tensor, rnd, probe_word, key0, key1, words, floats, bits, u)
            if drift.shape[0] > 0:
                for i in range(n):
                    u[i] = mu * u[i] - lr * total[i]
            else:
                for i in range(n):
                    u[i] = mu * u[i]
        else:
            for i in range(n):
                u[i] = -(lr * total[i])
        if kind == 0:
            for i in range(n):
                out[start + i] = base[start + i] + u[i]
        elif kind == 1:
            root = np.sqrt(hessian[0])
            for i in range(n):
                out[start + i] = base[start + i] + u[i] / root
        else:
            for i in range(n):
                out[start + i] = base[start + i] + u[i] / np.sqrt(hessian[start + i])


@_jit
def update(
    x,
    hessian,
    kind,
    first,
    last,
    normal,
    tensor,
    rnd,
    word,
    key0,
    key1,
    weights,
    lr,
    advance,
    every,
    keep,
    nu,
    eps,
    floor,
    squares,
    leaves,
):
    """Moves x and advances H in the blocks ``first`` to ``last - 1``; ``leaves`` takes the blocks' sums of squares."""
    words = np.empty((4, _QUADS), dtype=np.uint32)
    floats = np.empty((6, _QUADS), dtype=np.float32)
    bits = floats[4].view(np.uint32)
    u = np.empty(BLOCK, dtype=np.float32)
    s = np.empty(BLOCK, dtype=np.float32)
    total = np.empty(BLOCK, dtype=np.float32)
    root = np.ones(BLOCK, dtype=np.float32)
    h = np.empty(BLOCK, dtype=np.float32)
    square = np.empty(BLOCK, dtype=np.float64)
    tau = weights.shape[0]
    if kind == 1:
        root[:] = np.sqrt(hessian[0])
    for block in range(first, last):
        start = block * BLOCK
        n = min(BLOCK, x.size - start)
        if kind == 2:
            for i in range(n):
                h[i] = hessian[start + i]
                root[i] = np.sqrt(h[i])
        for k in range(tau):
            at = word + (k << 14)
            _sum_directions(block, n, normal, tensor, rnd, weights, k, at, key0, key1, words, floats, bits, u, s)
            if k == 0:
                for i in range(n):
                    total[i] = s[i]
            else:
                for i in range(n):
                    total[i] = total[i] + s[i]
            if advance and (every or k == tau - 1):
                for i in range(n):
                    d = s[i] / root[i]
                    new = keep * h[i] + nu * (d * d + eps)
                    h[i] = floor if new < floor else new
            if squares:
                for i in range(n):
                    d = np.float64(s[i] / root[i])
                    square[i] = d * d
                for i in range(n, BLOCK):
                    square[i] = 0.0
                half = BLOCK // 2
                while half > 0:
                    for i in range(half):
                        square[i] = square[i] + square[half + i]
                    half //= 2
                leaves[k, block] = square[0]
        for i in range(n):
            x[start + i] = x[start + i] - lr * (total[i] / root[i])
        if advance:
            for i in range(n):
                hessian[start + i] = h[i]
