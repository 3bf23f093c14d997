# mypy: allow-untyped-defs
"""The compiled loops of the CPU backend: blocks of 1024 elements, every direction of a block before the next.

A block's scratch stays in the first-level cache, so a pass reads and writes memory once however many directions it
takes. ``fastmath`` stays off: LLVM may then neither fuse a multiplication with an addition nor reorder a sum, while
elementwise loops still vectorise. They do so only where an index is known not to be negative, which it is in a slice
that begins at zero: so every block is a slice.

The functions carry no annotations: Numba infers their types from the arguments. All stand in this one file because
Numba's cache on disk is renewed when the file of a function changes, and not when that of one it calls does.

Of a direction of low rank a block's rows of U are drawn with it, and V once for all blocks, if there is room for that.

What is the same for all tensors of a call comes in tuples. ``stream``: whether directions are signs, the round, both
words of the key, the rank and 1 / its root, the most elements of V to be kept. ``probe``: whether there is a direction,
mu, its counter word, that of k = p = 0, the weights of the drift, the learning rate. ``step``: an update's weights, the
counter word of k = p = 0, the learning rate. ``average``: whether H advances, the first and the last local step in
which it does, 1 - nu, nu, eps, floor.

``place`` is a tensor's number and its columns, 0 where its elements are drawn one by one. ``v`` is V of the call's
directions, numbered in the order of the words that ask for them; of none, where each is drawn when it is asked for.
``room`` is scratch for a draw.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.extending import intrinsic

from hiso_pl.zeroth_order.kernels.base import LEAF
from hiso_pl.zeroth_order.philox import KEY_INCREMENTS, MULTIPLIERS, ROUNDS, Purpose, last_word
from hiso_pl.zeroth_order.streams import (
    COS_COEFFICIENTS,
    LN_2,
    LOG_COEFFICIENTS,
    MAX_RANK,
    PI_4,
    SIN_COEFFICIENTS,
    SQRT_HALF,
)

BLOCK = LEAF
ALIGNMENT = 128  # elements of a Rademacher call: where a row begins inside one, its directions are drawn from there on
FP32, BF16, FP16 = 0, 1, 2
_CALLS = (BLOCK + ALIGNMENT) // 4
_ROWS, _COLUMNS = last_word(Purpose.ROWS), last_word(Purpose.COLUMNS)
_STRIDE = MAX_RANK // 4  # calls from the factors of one row or column to those of the next

_M0, _M1 = (np.uint64(m) for m in MULTIPLIERS)
_W0, _W1 = (np.uint32(w) for w in KEY_INCREMENTS)
_S32 = np.uint64(32)
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8 = (np.float32(c) for c in LOG_COEFFICIENTS)
_S0, _S1, _S2 = (np.float32(c) for c in SIN_COEFFICIENTS)
_C0, _C1, _C2 = (np.float32(c) for c in COS_COEFFICIENTS)
_HALF, _ONE, _TWO = (np.float32(c) for c in (0.5, 1, 2))
_SQRT_HALF, _LN_2, _PI_4 = np.float32(SQRT_HALF), np.float32(LN_2), np.float32(PI_4)
_2M32, _2M24 = np.float32(2.0**-32), np.float32(2.0**-24)
_U0, _U1, _U2, _U4, _U5, _U13, _U16, _U23, _U29, _U31 = (np.uint32(c) for c in (0, 1, 2, 4, 5, 13, 16, 23, 29, 31))
_MANTISSA, _HALF_BITS, _ONE_BITS, _ANGLE = (np.uint32(c) for c in (0x007FFFFF, 0x3F000000, 0x3F800000, 0x1FFFFFFF))
# m < 0.70710678 compares mantissas where the exponents are equal; m + m then raises the exponent by one, exactly
_SQRT_HALF_MANTISSA = np.uint32(_SQRT_HALF.view(np.uint32) & _MANTISSA)
_I126, _I1 = np.int32(126), np.int32(1)
_MAGNITUDE, _INFINITY = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)
_BF16_NAN, _BF16_HALF = np.uint32(0x7FC0), np.uint32(0x7FFF)
_FP16_NAN, _FP16_INFINITY = np.uint32(0x7E00), np.uint32(0x7C00)
_FP16_OVERFLOW, _FP16_NORMAL = np.uint32(0x47800000), np.uint32(0x38800000)  # 2^16, and the least normal, 2^-14
_FP16_REBIAS = np.uint32(((15 - 127) << 23) + 0xFFF & 0xFFFFFFFF)
_FP16_MAGIC = np.uint32(0x3F000000)  # 0.5: its last place is the spacing of fp16's subnormals, 2^-24

_jit: Callable[[Any], Any] = njit(nogil=True, cache=True, error_model="numpy")
_intrinsic: Callable[[Any], Any] = intrinsic


@_intrinsic
def _as_float(_context, _value):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@_intrinsic
def _as_bits(_context, _value):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@_jit
def _radius(a):
    u = (np.float32(a) + _ONE) * _2M32
    bits = _as_bits(u)
    e = np.int32(np.int32(bits >> _U23) - _I126)
    m = np.uint32(bits & _MANTISSA)
    low = m < _SQRT_HALF_MANTISSA
    exponent = np.float32(np.int32(e - _I1) if low else e)
    x = _as_float(np.uint32(m | (_ONE_BITS if low else _HALF_BITS))) - _ONE
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
    return np.sqrt(-_TWO * ((x + y) + exponent * _LN_2))


@_jit
def _sine_cosine(b):
    q = np.uint32(b >> _U29)
    t = np.float32(np.int32(np.uint32((b & _ANGLE) >> _U5))) * _2M24
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
    # a sign is turned by its bit
    sine = _as_float(np.uint32(_as_bits(sine) ^ np.uint32((q & _U4) << _U29)))
    cosine = _as_float(np.uint32(_as_bits(cosine) ^ np.uint32(((q + _U2) & _U4) << _U29)))
    return sine, cosine


@_intrinsic
def _floats(_context, _address):
    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(types.int64), generate


@_intrinsic
def _halves(_context, _address):
    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint16)(types.int64), generate


@_jit
def _philox(first, step, count, tensor, rnd, word, key0, key1, w0, w1, w2, w3):
    for i in range(count):
        c0 = np.uint32(first + i * step)
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
def _box_muller(w0, w1, w2, w3, count, u):
    for i in range(count):
        radius = _radius(w0[i])
        sine, cosine = _sine_cosine(w1[i])
        u[4 * i] = radius * cosine
        u[4 * i + 1] = radius * sine
        radius = _radius(w2[i])
        sine, cosine = _sine_cosine(w3[i])
        u[4 * i + 2] = radius * cosine
        u[4 * i + 3] = radius * sine


@_jit
def _pairs(w0, w1, count, a, b):
    for i in range(count):
        radius = _radius(w0[i])
        sine, cosine = _sine_cosine(w1[i])
        a[i] = radius * cosine
        b[i] = radius * sine


@_jit
def _singles(w0, w1, count, a):
    for i in range(count):
        _, cosine = _sine_cosine(w1[i])
        a[i] = _radius(w0[i]) * cosine


@_jit
def _factors(first, count, stream, tensor, word, words, out):
    """Fills ``out``, by factor, with those of ``count`` rows or columns; ``word`` says of which."""
    _, rnd, key0, key1, rank, _, _ = stream
    for begin in range(0, count, _CALLS):
        n = min(_CALLS, count - begin)
        for call in range((rank + 3) >> 2):
            at = _STRIDE * (first + begin) + call
            _philox(at, _STRIDE, n, tensor, rnd, word, key0, key1, words[0], words[1], words[2], words[3])
            for half in range(2):
                j = 4 * call + 2 * half
                if j + 1 < rank:
                    _pairs(words[2 * half], words[2 * half + 1], n, out[j][begin:], out[j + 1][begin:])
                elif j < rank:
                    _singles(words[2 * half], words[2 * half + 1], n, out[j][begin:])


@_jit
def _kept(elements, directions, stream, place):
    """Room for V of so many directions, if that many elements ask for it more than once; none otherwise."""
    columns, rank, most = place[1], stream[4], stream[6]
    if columns == 0 or elements <= columns or directions * rank * columns > most:
        directions = 0
    return np.empty((directions, rank, max(columns, 1)), dtype=np.float32)


@_jit
def _keep(v, first, directions, word, stream, place, room):
    """Draws V of so many directions, from the one numbered ``first`` and its counter word on."""
    if v.shape[0] > 0:
        for p in range(directions):
            _factors(0, place[1], stream, place[0], _COLUMNS | (word + p), room[0], v[first + p])


@_jit
def _room(stream):
    """Scratch for a draw: words of calls, factors of a block's rows and of its columns."""
    rank = stream[4]
    rows, columns = np.empty((rank, BLOCK), dtype=np.float32), np.empty((rank, BLOCK), dtype=np.float32)
    return np.empty((4, _CALLS), dtype=np.uint32), rows, columns


@_jit
def _outer(start, count, stream, place, word, number, v, room, u):
    """Fills ``u`` with ``count`` elements of a direction of low rank, a stretch of a row after the other."""
    tensor, columns = place
    rank, scale = stream[4], stream[5]
    words, factors, drawn = room
    row = start // columns
    column = start - row * columns
    rows = (column + count + columns - 1) // columns
    _factors(row, rows, stream, tensor, _ROWS | word, words, factors)
    at = 0
    for i in range(rows):
        n = min(columns - column, count - at)
        target = u[at : at + n]
        if v.shape[0] == 0:
            _factors(column, n, stream, tensor, _COLUMNS | word, words, drawn)
        for j in range(rank):
            other = drawn[j][:n] if v.shape[0] == 0 else v[number][j][column : column + n]
            c = factors[j, i]
            if j == 0:
                for e in range(n):
                    target[e] = c * other[e]
            else:
                for e in range(n):
                    target[e] = target[e] + c * other[e]
        if rank > 1:
            for e in range(n):
                target[e] = scale * target[e]
        at += n
        column = 0


@_jit
def _draw(start, count, stream, place, word, number, v, room, u):
    """Fills ``u`` with the directions of ``count`` elements or a few more; ``start`` begins a Philox call, if any."""
    signs, rnd, key0, key1, _, _, _ = stream
    tensor, columns = place
    words = room[0]
    if columns > 0:
        _outer(start, count, stream, place, word, number, v, room, u)
    elif not signs:
        quads = (count + 3) >> 2
        _philox(start >> 2, 1, quads, tensor, rnd, word, key0, key1, words[0], words[1], words[2], words[3])
        _box_muller(words[0], words[1], words[2], words[3], quads, u)
    else:
        calls = (count + 127) >> 7
        _philox(start >> 7, 1, calls, tensor, rnd, word, key0, key1, words[0], words[1], words[2], words[3])
        for i in range(calls):
            for j in range(4):
                w = words[j, i]
                some = u[128 * i + 32 * j : 128 * i + 32 * j + 32]
                for b in range(32):
                    some[b] = _as_float(np.uint32(np.uint32((w >> np.uint32(b)) << _U31) | _ONE_BITS))


@_jit
def _sum_directions(start, n, stream, place, weights, word, number, v, room, u, s):
    """s = ((w[0] u_0) + w[1] u_1) + ... of one local step; ``word`` and ``number`` are those of p = 0."""
    for p in range(weights.size):
        _draw(start, n, stream, place, word + p, number + p, v, room, u)
        c = weights[p]
        if p == 0:
            for i in range(n):
                s[i] = c * u[i]
        else:
            for i in range(n):
                s[i] = s[i] + c * u[i]


@_jit
def combine(out, first, last, stream, place, word, weights):
    """Writes s_k of the blocks ``first`` to ``last - 1``."""
    room = _room(stream)
    v = _kept((last - first) * BLOCK, weights.size, stream, place)
    _keep(v, 0, weights.size, word, stream, place, room)
    u = np.empty(BLOCK, dtype=np.float32)
    s = np.empty(BLOCK, dtype=np.float32)
    for block in range(first, last):
        start = block * BLOCK
        target = out[start : start + BLOCK]
        n = target.size
        _sum_directions(start, n, stream, place, weights, word, 0, v, room, u, s)
        for i in range(n):
            target[i] = s[i]


@_jit
def _bf16(value):
    bits = _as_bits(value)
    rounded = np.uint32(bits + _BF16_HALF + ((bits >> _U16) & _U1)) >> _U16
    return np.uint16(_BF16_NAN if (bits & _MAGNITUDE) > _INFINITY else rounded)


@_jit
def _fp16(value):
    bits = _as_bits(value)
    magnitude = np.uint32(bits & _MAGNITUDE)
    sign = np.uint32((bits >> _U16) & np.uint32(0x8000))
    if magnitude > _INFINITY:
        rounded = _FP16_NAN
    elif magnitude >= _FP16_OVERFLOW:
        rounded = _FP16_INFINITY
    elif magnitude < _FP16_NORMAL:
        # an addition rounds at fp16's spacing by itself
        rounded = np.uint32(_as_bits(_as_float(magnitude) + _as_float(_FP16_MAGIC)) - _FP16_MAGIC)
    else:
        odd = np.uint32((magnitude >> _U13) & _U1)
        rounded = np.uint32(magnitude + _FP16_REBIAS + odd) >> _U13
    return np.uint16(rounded | sign)


@_jit
def _add(out, x, v, hessian, kind, element):
    """out = x + v / sqrt(H), H's elements from ``element`` on."""
    if kind == 0:
        for i in range(out.size):
            out[i] = x[i] + v[i]
    elif kind == 1:
        root = np.sqrt(hessian[0])
        for i in range(out.size):
            out[i] = x[i] + v[i] / root
    else:
        h = hessian[element : element + out.size]
        for i in range(out.size):
            out[i] = x[i] + v[i] / np.sqrt(h[i])


@_jit
def _store_16(out, values, width):
    """Writes fp32 values as the bits of 16-bit floats, rounded to nearest even."""
    if width == BF16:
        for i in range(out.size):
            out[i] = _bf16(values[i])
    else:
        for i in range(out.size):
            out[i] = _fp16(values[i])


@_jit
def displace(out, width, base, hessian, kind, rows, row_size, first, last, place, stream, probe):
    """Writes the pieces ``first`` to ``last - 1`` of a probe point.

    A row is cut into pieces of a block each, the last of them shorter; a whole tensor is one row. ``width`` is FP32,
    or BF16 or FP16 whose bits ``out`` takes; H's ``kind`` is 0 none, 1 one element, 2 elementwise.
    """
    offset, mu, probe_word, first_word, drift, lr = probe
    steps, directions = drift.shape
    room = _room(stream)
    v = _kept((last - first) * min(BLOCK, row_size), drift.size + 1, stream, place)
    for j in range(steps):
        _keep(v, j * directions, directions, first_word + (j << 14), stream, place, room)
    if offset:
        _keep(v, drift.size, 1, probe_word, stream, place, room)
    u = np.empty(BLOCK + ALIGNMENT, dtype=np.float32)
    s = np.empty(BLOCK + ALIGNMENT, dtype=np.float32)
    total = np.empty(BLOCK + ALIGNMENT, dtype=np.float32)
    point = np.empty(BLOCK, dtype=np.float32)
    pieces = (row_size + BLOCK - 1) // BLOCK
    for piece in range(first, last):
        row = piece // pieces
        within = (piece - row * pieces) * BLOCK
        n = min(BLOCK, row_size - within)
        element = rows[row] * row_size + within
        start = element
        if place[1] == 0:
            start = element & ~np.int64(127) if stream[0] else element & ~np.int64(3)
        skip = element - start
        for j in range(steps):
            word = first_word + (j << 14)
            _sum_directions(start, skip + n, stream, place, drift[j], word, j * directions, v, room, u, s)
            if j == 0:
                for i in range(skip + n):
                    total[i] = s[i]
            else:
                for i in range(skip + n):
                    total[i] = total[i] + s[i]
        if offset:
            _draw(start, skip + n, stream, place, probe_word, drift.size, v, room, u)
            if steps > 0:
                for i in range(skip + n):
                    u[i] = mu * u[i] - lr * total[i]
            else:
                for i in range(skip + n):
                    u[i] = mu * u[i]
        else:
            for i in range(skip + n):
                u[i] = -(lr * total[i])
        d = u[skip : skip + n]
        x = base[element : element + n]
        at = row * row_size + within
        target = out[at : at + n]
        if width != FP32:
            _add(point[:n], x, d, hessian, kind, element)
            _store_16(target, point, width)
        else:
            _add(target, x, d, hessian, kind, element)


_WHOLE = np.zeros(1, dtype=np.int64)


@_jit
def displace_all(table, width, first, last, stream, probe):
    """Writes the blocks ``first`` to ``last - 1`` of a probe point, counted through all tensors of ``table``.

    A row of the table: addresses of out, base and H, H's kind, number of elements, number of the tensor, first block,
    columns.
    """
    for t in range(table.shape[0]):
        size = table[t, 4]
        lo = max(first - table[t, 6], 0)
        hi = min(last - table[t, 6], (size + BLOCK - 1) // BLOCK)
        if lo < hi:
            kind, place = table[t, 3], (table[t, 5], table[t, 7])
            base = carray(_floats(table[t, 1]), size)
            h = carray(_floats(table[t, 2]), size if kind == 2 else 1)
            if width == FP32:
                out = carray(_floats(table[t, 0]), size)
                displace(out, width, base, h, kind, _WHOLE, size, lo, hi, place, stream, probe)
            else:
                bits = carray(_halves(table[t, 0]), size)
                displace(bits, width, base, h, kind, _WHOLE, size, lo, hi, place, stream, probe)


@_jit
def update(x, hessian, kind, first, last, place, stream, step, average, squares, leaves):
    """Moves x and advances H in the blocks ``first`` to ``last - 1``; ``leaves`` takes the blocks' sums of squares."""
    u = np.empty(BLOCK, dtype=np.float32)
    s = np.empty(BLOCK, dtype=np.float32)
    total = np.empty(BLOCK, dtype=np.float32)
    root = np.ones(BLOCK, dtype=np.float32)
    h = np.empty(BLOCK, dtype=np.float32)
    square = np.empty(BLOCK, dtype=np.float64)
    weights, first_word, lr = step
    advance, since, until, keep, nu, eps, floor = average
    tau, directions = weights.shape
    room = _room(stream)
    v = _kept((last - first) * BLOCK, weights.size, stream, place)
    for k in range(tau):
        _keep(v, k * directions, directions, first_word + (k << 14), stream, place, room)
    if kind == 1:
        root[:] = np.sqrt(hessian[0])
    for block in range(first, last):
        start = block * BLOCK
        moved = x[start : start + BLOCK]
        n = moved.size
        if kind == 2:
            stored = hessian[start : start + BLOCK]
            for i in range(n):
                h[i] = stored[i]
                root[i] = np.sqrt(stored[i])
        for k in range(tau):
            word = first_word + (k << 14)
            _sum_directions(start, n, stream, place, weights[k], word, k * directions, v, room, u, s)
            if k == 0:
                for i in range(n):
                    total[i] = s[i]
            else:
                for i in range(n):
                    total[i] = total[i] + s[i]
            if advance and since <= k <= until:
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
        if kind == 0:
            for i in range(n):
                moved[i] = moved[i] - lr * total[i]
        else:
            for i in range(n):
                moved[i] = moved[i] - lr * (total[i] / root[i])
        if advance:
            stored = hessian[start : start + BLOCK]
            for i in range(n):
                stored[i] = h[i]


@_jit
def update_all(table, first, last, stream, step, average, squares, leaves):
    """Updates the blocks ``first`` to ``last - 1``, counted through all tensors of ``table``.

    A row of the table is as in :func:`displace_all`, the address of out unused.
    """
    for t in range(table.shape[0]):
        size, begin = table[t, 4], table[t, 6]
        blocks = (size + BLOCK - 1) // BLOCK
        lo = max(first - begin, 0)
        hi = min(last - begin, blocks)
        if lo < hi:
            kind, place = table[t, 3], (table[t, 5], table[t, 7])
            x = carray(_floats(table[t, 1]), size)
            h = carray(_floats(table[t, 2]), size if kind == 2 else 1)
            own = leaves[:, begin : begin + blocks]
            update(x, h, kind, lo, hi, place, stream, step, average, squares, own)
