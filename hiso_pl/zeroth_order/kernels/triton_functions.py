# mypy: allow-untyped-defs, allow-incomplete-defs
"""The functions of the Triton backend: a program takes a block of elements through every direction, in registers.

They must be launched with ``enable_fp_fusion=False``. Beyond that, what Triton and LLVM are free to do and may not do
here is kept from them by the choice of words:

- division and square root are ``div_rn`` and ``sqrt_rn``; ``/`` and ``sqrt`` are approximations on a GPU;
- a sign is turned by its bit, as some versions of Triton take ``-x`` for ``0 - x``, which loses the sign of zero;
- a sum begins at -0, the one number that added to any other gives that other, bit for bit, its own sign of zero
  included; so the first direction needs no code of its own;
- a sum over the leaf of a tree is written as its halvings, as a reduction adds in an order of its own;
- 16-bit results are rounded on the bits: a GPU's conversion would do, but Triton's interpreter truncates.

Memory is read and written as four neighbouring elements a thread, which is also what one Philox call of a normal
direction gives a thread, so no value changes threads. For that Triton must see that a mask does not change within four
elements, and so sizes come as ``units`` of ``UNIT`` elements, 128 where they divide the size and 1 where they do not.

Numbers that vary from launch to launch are kept from specialisation: else a kernel compiles anew when one is 1 or a
multiple of 16. Their types are given for the same reason, as Triton goes by the value where they are not.

``displace`` and ``update`` take one tensor, ``displace_all`` and ``update_all`` all that a table lists. Either says
where a program's block lies and leaves the rest to ``_displaced`` and ``_updated``. A table is an int64 matrix with a
column for each tensor: its first block, counted through all tensors, the addresses of out, x and H, its units, and its
number. First blocks ascend, and columns fill the table up to a power of two with one that is never reached. So a
program finds its tensor by bisection: a handful of reads that the first cache answers, and no memory that grows with
the tensors' sizes, as a map from blocks to tensors would. Where a unit is of more than one element, addresses are
multiples of 16.

Directions of low rank are read from memory: ``draw_factors`` writes U and V of every direction of a call before it, a
direction after the other, each factor by factor, ``total`` rows and columns of all tensors together. A table then has
three rows more: a tensor's columns, and where its U and its V begin. ``stream`` is what all draws of a launch have in
common: the round, both words of the key, the factors, their ``total``, and 1 / sqrt(rank); ``place`` is a tensor's
number, columns, and both beginnings; ``lines`` are where the factors of a block's elements are.
"""

from __future__ import annotations

import numpy as np
import triton
import triton.language as tl

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

# kinds of H
NONE = tl.constexpr(0)
ONE = tl.constexpr(1)
ELEMENTWISE = tl.constexpr(2)
# formats of the output; a 16-bit one is given as int16
FP32 = tl.constexpr(0)
BF16 = tl.constexpr(1)
FP16 = tl.constexpr(2)
# the local steps in which H advances
LAST = tl.constexpr(0)
FIRST = tl.constexpr(1)
ALL = tl.constexpr(2)
# rows of a table of tensors, after the first blocks
_OUT, _BASE, _HESSIAN, _UNITS, _TENSOR, _COLUMNS, _U, _V = (tl.constexpr(i) for i in range(1, 9))


def _fp32(value: float) -> tl.constexpr:
    return tl.constexpr(float(np.float32(value)))


_ROUNDS = tl.constexpr(ROUNDS)
_M0, _M1 = (tl.constexpr(m) for m in MULTIPLIERS)
_W0, _W1 = (tl.constexpr(w) for w in KEY_INCREMENTS)
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8 = (_fp32(c) for c in LOG_COEFFICIENTS)
_S0, _S1, _S2 = (_fp32(c) for c in SIN_COEFFICIENTS)
_C0, _C1, _C2 = (_fp32(c) for c in COS_COEFFICIENTS)
_SQRT_HALF, _LN_2, _PI_4 = _fp32(SQRT_HALF), _fp32(LN_2), _fp32(PI_4)
_2M32, _2M24 = _fp32(2.0**-32), _fp32(2.0**-24)
_LEAF = tl.constexpr(LEAF)
_HALVINGS = tl.constexpr(LEAF.bit_length() - 1)
_SIGN = tl.constexpr(0x80000000)
_ONE_BITS = tl.constexpr(0x3F800000)
_FP16_REBIAS = tl.constexpr(((15 - 127) << 23) + 0xFFF & 0xFFFFFFFF)


@triton.jit
def _philox(c0, c1, c2, c3, k0, k1):
    for _ in tl.static_range(_ROUNDS):
        low0 = c0 * _M0
        low1 = c2 * _M1
        high0 = tl.umulhi(c0, _M0)
        high1 = tl.umulhi(c2, _M1)
        c0 = high1 ^ c1 ^ k0
        c1 = low1
        c2 = high0 ^ c3 ^ k1
        c3 = low0
        k0 = k0 + _W0
        k1 = k1 + _W1
    return c0, c1, c2, c3


@triton.jit
def _flip(value, sign):
    """Turns the sign of a float where ``sign`` has its top bit set."""
    return (value.to(tl.uint32, bitcast=True) ^ sign).to(tl.float32, bitcast=True)


@triton.jit
def _radius(a):
    u = (a.to(tl.float32) + 1.0) * _2M32
    bits = u.to(tl.uint32, bitcast=True)
    e = (bits >> 23).to(tl.int32) - 126
    m = ((bits & 0x007FFFFF) | 0x3F000000).to(tl.float32, bitcast=True)
    low = m < _SQRT_HALF
    exponent = tl.where(low, e - 1, e).to(tl.float32)
    x = tl.where(low, m + m, m) - 1.0
    w = x * x
    y = x * _L0 + _L1
    y = y * x + _L2
    y = y * x + _L3
    y = y * x + _L4
    y = y * x + _L5
    y = y * x + _L6
    y = y * x + _L7
    y = y * x + _L8
    y = y * x
    y = y * w
    y = y - w * 0.5
    return tl.sqrt_rn(((x + y) + exponent * _LN_2) * -2.0)


@triton.jit
def _sine_cosine(b):
    q = b >> 29
    t = ((b & 0x1FFFFFFF) >> 5).to(tl.float32) * _2M24
    t = t * _PI_4
    t = tl.where((q & 1) != 0, _PI_4 - t, t)
    w = t * t
    sn = ((w * _S0 + _S1) * w + _S2) * w
    sn = sn * t + t
    cs = ((w * _C0 + _C1) * w + _C2) * w
    cs = cs * w
    cs = cs - w * 0.5
    cs = cs + 1.0
    swap = ((q + 1) & 2) != 0
    return _flip(tl.where(swap, cs, sn), (q & 4) << 29), _flip(tl.where(swap, sn, cs), ((q + 2) & 4) << 29)


@triton.jit
def _box_muller(a, b):
    radius = _radius(a)
    sine, cosine = _sine_cosine(b)
    return radius * cosine, radius * sine


@triton.jit
def _place(tensor, columns, u, v):
    return tensor.to(tl.uint32), columns.to(tl.int64), u.to(tl.int64), v.to(tl.int64)


@triton.jit
def _stream(rnd, key0, key1, factors, total, scale):
    return rnd.to(tl.uint32), key0.to(tl.uint32), key1.to(tl.uint32), factors, total.to(tl.int64), scale


@triton.jit
def _line(start, place, i: tl.constexpr, BLOCK: tl.constexpr):
    """Where U of the rows and V of the columns of a block's elements are, of the i-th of every four."""
    _, columns, u, v = place
    element = start + 4 * tl.arange(0, BLOCK // 4) + i
    row = element // columns
    return u + row, v + (element - row * columns)


@triton.jit
def _lines(start, place, RANK: tl.constexpr, BLOCK: tl.constexpr):
    """See :func:`_line`, for all four; nothing of use where elements are drawn one by one."""
    if RANK > 0:
        lines = (
            _line(start, place, 0, BLOCK),
            _line(start, place, 1, BLOCK),
            _line(start, place, 2, BLOCK),
            _line(start, place, 3, BLOCK),
        )
    else:
        lines = (start, start, start, start)
    return lines


@triton.jit
def _product(stream, number, line, RANK: tl.constexpr):
    """Elements of the direction ``number`` of low rank."""
    _, _, _, factors, total, scale = stream
    at = factors + number * RANK * total
    u, v = line
    value = tl.load(at + u) * tl.load(at + v)
    for j in tl.static_range(1, RANK):
        value = value + tl.load(at + j * total + u) * tl.load(at + j * total + v)
    return value * scale


@triton.jit
def _draw(start, place, stream, word, number, lines, NORMAL: tl.constexpr, RANK: tl.constexpr, BLOCK: tl.constexpr):
    """A block of a direction from the element ``start``, int64, on, which begins a Philox call, if it takes any.

    It comes as four tensors: the first elements of every four, the second, third and fourth.
    """
    tensor = place[0]
    rnd, key0, key1, _, _, _ = stream
    if RANK > 0:
        u0 = _product(stream, number, lines[0], RANK)
        u1 = _product(stream, number, lines[1], RANK)
        u2 = _product(stream, number, lines[2], RANK)
        u3 = _product(stream, number, lines[3], RANK)
    elif NORMAL:
        calls = (start >> 2).to(tl.uint32) + tl.arange(0, BLOCK // 4).to(tl.uint32)
        w0, w1, w2, w3 = _philox(calls, tensor, rnd, word, key0, key1)
        u0, u1 = _box_muller(w0, w1)
        u2, u3 = _box_muller(w2, w3)
    else:
        calls = (start >> 7).to(tl.uint32) + tl.arange(0, BLOCK // 128).to(tl.uint32)
        w0, w1, w2, w3 = _philox(calls, tensor, rnd, word, key0, key1)
        words = tl.join(tl.join(w0, w2), tl.join(w1, w3))
        words = tl.reshape(words, [BLOCK // 32, 1]).broadcast_to([BLOCK // 32, 8])
        # the sign of the j-th of four elements is bit 4 i + j of a word for i = 0 to 7
        bits = tl.reshape(words, [BLOCK // 4]) >> ((tl.arange(0, BLOCK // 4) & 7) * 4).to(tl.uint32)
        u0 = ((bits << 31) | _ONE_BITS).to(tl.float32, bitcast=True)
        u1 = (((bits << 30) & _SIGN) | _ONE_BITS).to(tl.float32, bitcast=True)
        u2 = (((bits << 29) & _SIGN) | _ONE_BITS).to(tl.float32, bitcast=True)
        u3 = (((bits << 28) & _SIGN) | _ONE_BITS).to(tl.float32, bitcast=True)
    return u0, u1, u2, u3


@triton.jit
def _interleave(a0, a1, a2, a3, BLOCK: tl.constexpr):
    """Puts four tensors as they come from ``_draw`` in the order of the elements."""
    return tl.reshape(tl.join(tl.join(a0, a2), tl.join(a1, a3)), [BLOCK])


@triton.jit
def draw(start, place, stream, word, number, lines, NORMAL: tl.constexpr, RANK: tl.constexpr, BLOCK: tl.constexpr):
    """The elements ``start`` to ``start + BLOCK - 1`` of a direction; see :func:`_draw`."""
    u0, u1, u2, u3 = _draw(start, place, stream, word, number, lines, NORMAL, RANK, BLOCK)
    return _interleave(u0, u1, u2, u3, BLOCK)


@triton.jit
def _column(table, levels, block):
    """The column of the tensor that a block belongs to, the last one whose first block is not after it."""
    column = 0
    step = 1 << levels
    for _ in range(levels):
        step = step >> 1
        column = tl.where(tl.load(table + column + step) <= block, column + step, column)
    return column


@triton.jit(
    do_not_specialize=[
        *("levels", "blocks", "first", "directions", "total", "rnd", "word", "key0", "key1"),
    ],
)
def draw_factors(
    factors,
    table,
    levels: tl.int32,
    blocks: tl.int32,
    first: tl.int64,
    directions: tl.int32,
    total: tl.int64,
    rnd: tl.uint32,
    word: tl.uint32,
    key0: tl.uint32,
    key1: tl.uint32,
    RANK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Writes U and V of all tensors, for the directions of local steps one after the other, from the ``first`` on.

    ``word`` is the counter word of the first step's first direction. A column of the table is a tensor's rows or
    columns: its first block, the tensor's number, the purpose in its place in a counter word.
    """
    direction = tl.program_id(0) // blocks
    block = tl.program_id(0) - direction * blocks
    column = _column(table, levels, block)
    tensor = tl.load(table + (1 << levels) + column).to(tl.uint32)
    purpose = tl.load(table + (2 << levels) + column).to(tl.uint32)
    k = direction // directions
    last = purpose + word.to(tl.uint32) + (k * 16384 + direction - k * directions).to(tl.uint32)
    index = (block - tl.load(table + column)) * BLOCK + tl.arange(0, BLOCK)
    size = total.to(tl.int64)
    at = factors + (first.to(tl.int64) + direction) * RANK * size + block * BLOCK + tl.arange(0, BLOCK)
    for call in tl.static_range((RANK + 3) // 4):
        calls = (2 * index + call).to(tl.uint32)
        w0, w1, w2, w3 = _philox(calls, tensor, rnd.to(tl.uint32), last, key0.to(tl.uint32), key1.to(tl.uint32))
        u0, u1 = _box_muller(w0, w1)
        tl.store(at + 4 * call * size, u0)
        if 4 * call + 1 < RANK:
            tl.store(at + (4 * call + 1) * size, u1)
        if 4 * call + 2 < RANK:
            u2, u3 = _box_muller(w2, w3)
            tl.store(at + (4 * call + 2) * size, u2)
            if 4 * call + 3 < RANK:
                tl.store(at + (4 * call + 3) * size, u3)


@triton.jit
def _zero(SIZE: tl.constexpr):
    """-0, where a sum begins."""
    return tl.full([SIZE], _SIGN, tl.uint32).to(tl.float32, bitcast=True)


@triton.jit
def _weighted_sum(start, weights, directions, place, stream, word, number, lines, NORMAL, RANK, BLOCK):
    """((w[0] u_0) + w[1] u_1) + ... of one local step, as from ``_draw``; ``word`` and ``number`` are of p = 0."""
    s0 = _zero(BLOCK // 4)
    s1 = s0
    s2 = s0
    s3 = s0
    for p in range(directions):
        u0, u1, u2, u3 = _draw(start, place, stream, word + p, number + p, lines, NORMAL, RANK, BLOCK)
        c = tl.load(weights + p)
        s0 = s0 + u0 * c
        s1 = s1 + u1 * c
        s2 = s2 + u2 * c
        s3 = s3 + u3 * c
    return s0, s1, s2, s3


@triton.jit
def _bf16(value):
    bits = value.to(tl.uint32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return tl.where((bits & 0x7FFFFFFF) > 0x7F800000, 0x7FC0, rounded)


@triton.jit
def _fp16(value):
    bits = value.to(tl.uint32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    normal = (magnitude + _FP16_REBIAS + ((magnitude >> 13) & 1)) >> 13
    # below 2^-14 fp16's spacing is 2^-24, the last place of 0.5: an addition rounds to it by itself
    shifted = magnitude.to(tl.float32, bitcast=True) + 0.5
    subnormal = shifted.to(tl.uint32, bitcast=True) - 0x3F000000
    rounded = tl.where(magnitude < 0x38800000, subnormal, normal)
    rounded = tl.where(magnitude >= 0x47800000, 0x7C00, rounded)
    rounded = tl.where(magnitude > 0x7F800000, 0x7E00, rounded)
    return rounded | ((bits >> 16) & 0x8000)


@triton.jit
def _store(out, value, mask, FORMAT: tl.constexpr):
    """Stores fp32 values, rounded to nearest even to a 16-bit format where ``out`` is one, given as int16."""
    if FORMAT == FP32:
        tl.store(out, value, mask=mask)
    elif FORMAT == BF16:
        tl.store(out, _bf16(value).to(tl.uint16).to(tl.int16, bitcast=True), mask=mask)
    else:
        tl.store(out, _fp16(value).to(tl.uint16).to(tl.int16, bitcast=True), mask=mask)


@triton.jit
def _leaf_sums(values, BLOCK: tl.constexpr):
    """The sums of the leaves of the summation tree: upper halves onto lower halves, ten times."""
    level = values
    for i in tl.static_range(_HALVINGS):
        # two numbers have one sum, whatever the order of a reduction
        level = tl.sum(tl.reshape(level, [BLOCK // _LEAF, 2, _LEAF >> (i + 1)]), axis=1)
    return tl.reshape(level, [BLOCK // _LEAF])


@triton.jit(
    do_not_specialize=[
        *("units", "directions", "tensor", "columns", "u", "v", "rnd", "word", "key0", "key1", "total", "scale"),
    ],
)
def combine(
    out,
    weights,
    factors,
    units: tl.int64,
    directions: tl.int32,
    tensor: tl.uint32,
    columns: tl.int64,
    u: tl.int64,
    v: tl.int64,
    rnd: tl.uint32,
    word: tl.uint32,
    key0: tl.uint32,
    key1: tl.uint32,
    total: tl.int64,
    scale: tl.float32,
    FORMAT: tl.constexpr,
    NORMAL: tl.constexpr,
    RANK: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Writes s_k; ``word`` is the counter word of the local step."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    index = start + tl.arange(0, BLOCK)
    place = _place(tensor, columns, u, v)
    stream = _stream(rnd, key0, key1, factors, total, scale)
    lines = _lines(start, place, RANK, BLOCK)
    s0, s1, s2, s3 = _weighted_sum(
        start, weights, directions, place, stream, word.to(tl.uint32), start * 0, lines, NORMAL, RANK, BLOCK
    )
    s = _interleave(s0, s1, s2, s3, BLOCK)
    _store(out + index, s, index < units.to(tl.int64) * UNIT, FORMAT)


@triton.jit
def _displaced(
    out, base, hessian, at, index, start, mask, place, probe, stream, KIND, OFFSET, DRIFT, FORMAT, NORMAL, RANK, BLOCK
):
    """Writes a block of a probe point: the elements ``index``, drawn from ``start`` on, to the places ``at``."""
    drift, steps, directions, probe_word, drift_word, mu, lr = probe
    lines = _lines(start, place, RANK, BLOCK)
    x = tl.load(base + index, mask=mask)
    root = 1.0
    if KIND == ONE:
        root = tl.sqrt_rn(tl.load(hessian))
    elif KIND == ELEMENTWISE:
        root = tl.sqrt_rn(tl.load(hessian + index, mask=mask, other=1.0))

    if DRIFT:
        t0 = _zero(BLOCK // 4)
        t1 = t0
        t2 = t0
        t3 = t0
        for j in range(steps):
            word = drift_word.to(tl.uint32) + j * 16384
            number = start * 0 + j * directions
            s0, s1, s2, s3 = _weighted_sum(
                start, drift + j * directions, directions, place, stream, word, number, lines, NORMAL, RANK, BLOCK
            )
            t0 = t0 + s0
            t1 = t1 + s1
            t2 = t2 + s2
            t3 = t3 + s3
        total = _interleave(t0, t1, t2, t3, BLOCK) * lr
    if OFFSET:
        number = start * 0 + steps * directions
        v = draw(start, place, stream, probe_word.to(tl.uint32), number, lines, NORMAL, RANK, BLOCK) * mu
        if DRIFT:
            v = v - total
    else:
        v = _flip(total, _SIGN)
    if KIND != NONE:
        v = tl.div_rn(v, root)
    _store(out + at, x + v, mask, FORMAT)


@triton.jit(
    do_not_specialize=[
        *("units", "pieces", "steps", "directions", "tensor", "columns", "u", "v", "rnd", "probe_word", "drift_word"),
        *("key0", "key1", "total", "scale", "mu", "lr"),
    ],
)
def displace(
    out,
    base,
    hessian,
    rows,
    drift,
    factors,
    units: tl.int64,
    pieces: tl.int32,
    steps: tl.int32,
    directions: tl.int32,
    tensor: tl.uint32,
    columns: tl.int64,
    u: tl.int64,
    v: tl.int64,
    rnd: tl.uint32,
    probe_word: tl.uint32,
    drift_word: tl.uint32,
    key0: tl.uint32,
    key1: tl.uint32,
    total: tl.int64,
    scale: tl.float32,
    mu: tl.float32,
    lr: tl.float32,
    KIND: tl.constexpr,
    ROWS: tl.constexpr,
    OFFSET: tl.constexpr,
    DRIFT: tl.constexpr,
    FORMAT: tl.constexpr,
    NORMAL: tl.constexpr,
    RANK: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Writes a probe point, or some rows of one.

    ``units`` give the size of the tensor, or of a row, which ``pieces`` programs share. A row that does not begin a
    Philox call is drawn from the beginning of its first call on.
    """
    size = units.to(tl.int64) * UNIT
    program = tl.program_id(0)
    first = size * 0
    target = size * 0
    piece = program
    skip = size * 0
    if ROWS:
        row = program // pieces
        piece = program - row * pieces
        first = tl.load(rows + row) * size
        target = row.to(tl.int64) * size
        if UNIT == 1 and RANK == 0:
            skip = first & (3 if NORMAL else 127)
    within = piece.to(tl.int64) * BLOCK - skip
    start = first + within
    place = within + tl.arange(0, BLOCK)
    mask = place < size
    if ROWS and UNIT == 1:
        mask = mask & (place >= 0)
    probe = (drift, steps, directions, probe_word, drift_word, mu, lr)
    stream = _stream(rnd, key0, key1, factors, total, scale)
    where = _place(tensor, columns, u, v)
    _displaced(
        out,
        base,
        hessian,
        target + place,
        first + place,
        start,
        mask,
        where,
        probe,
        stream,
        KIND,
        OFFSET,
        DRIFT,
        FORMAT,
        NORMAL,
        RANK,
        BLOCK,
    )


@triton.jit
def _place_of(table, levels, column, RANK: tl.constexpr):
    """A tensor's place by a table, which says nothing of rows and columns where there are none."""
    tensor = tl.load(table + (_TENSOR << levels) + column)
    columns = tensor
    u = tensor
    v = tensor
    if RANK > 0:
        columns = tl.load(table + (_COLUMNS << levels) + column)
        u = tl.load(table + (_U << levels) + column)
        v = tl.load(table + (_V << levels) + column)
    return _place(tensor, columns, u, v)


@triton.jit
def _pointer(table, at, TYPE: tl.constexpr, UNIT: tl.constexpr):
    """An address of a table as a pointer."""
    pointer = tl.load(table + at).to(tl.pointer_type(TYPE))
    if UNIT != 1:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit(
    do_not_specialize=[
        *("levels", "begin", "steps", "directions", "rnd", "probe_word", "drift_word"),
        *("key0", "key1", "total", "scale", "mu", "lr"),
    ],
)
def displace_all(
    table,
    drift,
    factors,
    levels: tl.int32,
    begin: tl.int32,
    steps: tl.int32,
    directions: tl.int32,
    rnd: tl.uint32,
    probe_word: tl.uint32,
    drift_word: tl.uint32,
    key0: tl.uint32,
    key1: tl.uint32,
    total: tl.int64,
    scale: tl.float32,
    mu: tl.float32,
    lr: tl.float32,
    KIND: tl.constexpr,
    OFFSET: tl.constexpr,
    DRIFT: tl.constexpr,
    FORMAT: tl.constexpr,
    NORMAL: tl.constexpr,
    RANK: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Writes a probe point of the tensors in a table of ``2**levels`` columns, from the block ``begin`` on."""
    block = tl.program_id(0) + begin
    column = _column(table, levels, block)
    within = (block - tl.load(table + column)) * BLOCK
    place = within + tl.arange(0, BLOCK)
    out = _pointer(table, (_OUT << levels) + column, tl.float32 if FORMAT == FP32 else tl.int16, UNIT)
    base = _pointer(table, (_BASE << levels) + column, tl.float32, UNIT)
    hessian = None
    if KIND != NONE:
        hessian = _pointer(table, (_HESSIAN << levels) + column, tl.float32, UNIT if KIND == ELEMENTWISE else 1)
    mask = place < tl.load(table + (_UNITS << levels) + column) * UNIT
    probe = (drift, steps, directions, probe_word, drift_word, mu, lr)
    stream = _stream(rnd, key0, key1, factors, total, scale)
    where = _place_of(table, levels, column, RANK)
    _displaced(
        out,
        base,
        hessian,
        place,
        place,
        within,
        mask,
        where,
        probe,
        stream,
        KIND,
        OFFSET,
        DRIFT,
        FORMAT,
        NORMAL,
        RANK,
        BLOCK,
    )


@triton.jit
def _advanced(h, d, keep, nu, eps, floor):
    """max(keep H + nu (D D + eps), floor), but a value that is not a number stays."""
    h = h * keep + (d * d + eps) * nu
    return tl.where(h < floor, floor, h)


@triton.jit
def _updated(
    x,
    hessian,
    leaves,
    piece,
    units,
    leaf_count,
    place,
    step,
    stream,
    KIND,
    ADVANCE,
    STEPS,
    SQUARES,
    NORMAL,
    RANK,
    UNIT,
    BLOCK,
):
    """Moves x and advances H in one piece of a tensor; ``leaves`` begins with the tensor's first."""
    weights, steps, directions, word, lr, keep, nu, eps, floor = step
    start = piece.to(tl.int64) * BLOCK
    index = start + tl.arange(0, BLOCK)
    mask = index < units.to(tl.int64) * UNIT
    lines = _lines(start, place, RANK, BLOCK)
    before = tl.load(x + index, mask=mask)
    h = before
    root = 1.0
    if KIND == ONE:
        root = tl.sqrt_rn(tl.load(hessian))
    elif KIND == ELEMENTWISE:
        h = tl.load(hessian + index, mask=mask, other=1.0)
        root = tl.sqrt_rn(h)

    t0 = _zero(BLOCK // 4)
    t1 = t0
    t2 = t0
    t3 = t0
    s0 = t0
    s1 = t0
    s2 = t0
    s3 = t0
    for k in range(steps):
        s0, s1, s2, s3 = _weighted_sum(
            start,
            weights + k * directions,
            directions,
            place,
            stream,
            word.to(tl.uint32) + k * 16384,
            start * 0 + k * directions,
            lines,
            NORMAL,
            RANK,
            BLOCK,
        )
        t0 = t0 + s0
        t1 = t1 + s1
        t2 = t2 + s2
        t3 = t3 + s3
        if SQUARES or (ADVANCE and STEPS == ALL):
            d = _interleave(s0, s1, s2, s3, BLOCK)
            if KIND != NONE:
                d = tl.div_rn(d, root)
            if ADVANCE and STEPS == ALL:
                h = _advanced(h, d, keep, nu, eps, floor)
            if SQUARES:
                wide = tl.where(mask, d, 0.0).to(tl.float64)
                leaf = piece * (BLOCK // _LEAF) + tl.arange(0, BLOCK // _LEAF)
                at = leaves + k * leaf_count.to(tl.int64) + leaf
                tl.store(at, _leaf_sums(wide * wide, BLOCK), mask=leaf < leaf_count)
        if ADVANCE and STEPS == FIRST:  # noqa: SIM102 - known when it compiles, k when it runs
            if k == 0:
                h = _advanced(h, tl.div_rn(_interleave(s0, s1, s2, s3, BLOCK), root), keep, nu, eps, floor)
    if ADVANCE and STEPS == LAST:
        h = _advanced(h, tl.div_rn(_interleave(s0, s1, s2, s3, BLOCK), root), keep, nu, eps, floor)
    total = _interleave(t0, t1, t2, t3, BLOCK)
    if KIND != NONE:
        total = tl.div_rn(total, root)
    tl.store(x + index, before - total * lr, mask=mask)
    if ADVANCE:
        tl.store(hessian + index, h, mask=mask)


@triton.jit(
    do_not_specialize=[
        *("units", "leaf_count", "steps", "directions", "tensor", "columns", "u", "v", "rnd", "word", "key0", "key1"),
        *("total", "scale", "lr", "keep", "nu", "eps", "floor"),
    ],
)
def update(
    x,
    hessian,
    weights,
    leaves,
    factors,
    units: tl.int64,
    leaf_count: tl.int32,
    steps: tl.int32,
    directions: tl.int32,
    tensor: tl.uint32,
    columns: tl.int64,
    u: tl.int64,
    v: tl.int64,
    rnd: tl.uint32,
    word: tl.uint32,
    key0: tl.uint32,
    key1: tl.uint32,
    total: tl.int64,
    scale: tl.float32,
    lr: tl.float32,
    keep: tl.float32,
    nu: tl.float32,
    eps: tl.float32,
    floor: tl.float32,
    KIND: tl.constexpr,
    ADVANCE: tl.constexpr,
    STEPS: tl.constexpr,
    SQUARES: tl.constexpr,
    NORMAL: tl.constexpr,
    RANK: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Moves x and advances H; ``leaves``, float64 ``[steps, leaf_count]``, takes the leaves' sums of squares."""
    step = (weights, steps, directions, word, lr, keep, nu, eps, floor)
    stream = _stream(rnd, key0, key1, factors, total, scale)
    piece = tl.program_id(0)
    _updated(
        x,
        hessian,
        leaves,
        piece,
        units,
        leaf_count,
        _place(tensor, columns, u, v),
        step,
        stream,
        KIND,
        ADVANCE,
        STEPS,
        SQUARES,
        NORMAL,
        RANK,
        UNIT,
        BLOCK,
    )


@triton.jit(
    do_not_specialize=[
        *("levels", "begin", "leaf_count", "steps", "directions", "rnd", "word", "key0", "key1"),
        *("total", "scale", "lr", "keep", "nu", "eps", "floor"),
    ],
)
def update_all(
    table,
    weights,
    leaves,
    factors,
    levels: tl.int32,
    begin: tl.int32,
    leaf_count: tl.int32,
    steps: tl.int32,
    directions: tl.int32,
    rnd: tl.uint32,
    word: tl.uint32,
    key0: tl.uint32,
    key1: tl.uint32,
    total: tl.int64,
    scale: tl.float32,
    lr: tl.float32,
    keep: tl.float32,
    nu: tl.float32,
    eps: tl.float32,
    floor: tl.float32,
    KIND: tl.constexpr,
    ADVANCE: tl.constexpr,
    STEPS: tl.constexpr,
    SQUARES: tl.constexpr,
    NORMAL: tl.constexpr,
    RANK: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Updates the tensors in a table of ``2**levels`` columns, from the block ``begin`` on.

    ``leaves`` has ``leaf_count`` of them for all tensors together: as many for each block as it can hold.
    """
    block = tl.program_id(0) + begin
    column = _column(table, levels, block)
    first = tl.load(table + column)
    x = _pointer(table, (_BASE << levels) + column, tl.float32, UNIT)
    hessian = None
    if KIND != NONE:
        hessian = _pointer(table, (_HESSIAN << levels) + column, tl.float32, UNIT if KIND == ELEMENTWISE else 1)
    own = leaves
    if SQUARES:
        own = leaves + first * (BLOCK // _LEAF)
    piece = block - first
    units = tl.load(table + (_UNITS << levels) + column)
    where = _place_of(table, levels, column, RANK)
    step = (weights, steps, directions, word, lr, keep, nu, eps, floor)
    stream = _stream(rnd, key0, key1, factors, total, scale)
    _updated(
        x,
        hessian,
        own,
        piece,
        units,
        leaf_count,
        where,
        step,
        stream,
        KIND,
        ADVANCE,
        STEPS,
        SQUARES,
        NORMAL,
        RANK,
        UNIT,
        BLOCK,
    )
