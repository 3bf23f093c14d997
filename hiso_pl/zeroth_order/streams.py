r"""Random directions as pure functions of (seed, tensor, element, round, local step, direction): ``stream: 1``.

This is a file format. A ledger replays only if these numbers never change, so they are given here by the plain
reference that the fast kernels are tested against, bit for bit, with constants and test vectors.

A direction's element ``e`` of tensor ``t`` in round ``r`` comes from one Philox4x32-10 call (:mod:`.philox`) with
counter ``(e >> 2, t, r, 0 << 28 | k << 14 | p)`` and the 64-bit seed as key; p is
counted from the site's first direction.

**normal.** Words (0, 1) give elements 0 and 1 of the block of four, words (2, 3) elements 2 and 3, by the method of
Box and Muller on words (a, b). Every operation is one fp32 rounding, none fused::

    u = (float(a) + 1) * 2^-32                      s = sqrt(-2 * ln(u))
    ln(u): e = exponent, m in [0.5, 1);  if m < 0.70710678: e -= 1, x = (m + m) - 1  else x = m - 1
           w = x*x;  y = Horner of L in x;  y = y*x;  y = y*w;  y = y - 0.5*w;   ln = (x + y) + e * 0.6931471805599453
    angle: q = b >> 29;  t = float((b & 0x1fffffff) >> 5) * 2^-24;  t = t * (pi/4);  if q odd: t = pi/4 - t;   w = t*t
           sn = ((S0*w + S1)*w + S2)*w;  sn = sn*t + t
           cs = ((C0*w + C1)*w + C2)*w;  cs = cs*w;  cs = cs - 0.5*w;  cs = cs + 1
           if (q+1) & 2: swap sn and cs;   if q & 4: sn = -sn;   if (q+2) & 4: cs = -cs
    elements: s*cs, s*sn

The polynomials are those of Cephes' ``logf``, ``sinf`` and ``cosf`` (S. Moshier).

**rademacher.** One bit an element, 128 elements a call: the counter's first word is ``e >> 7``; with ``b = e & 127``
the bit is bit ``b & 31`` (least significant first) of word ``b >> 5``; a set bit gives -1, a clear one +1.

**low_rank.** A tensor of two dimensions or more, flattened to ``[rows, columns]`` (columns: elements of an entry of its
first dimension), has a direction of rank n <= 8; a tensor of fewer dimensions has a normal one. The factors U, of shape
``[rows, n]``, and V, ``[columns, n]``, are drawn as normal elements are, with ``e = 8 row + j`` and purpose 6 in the
top four bits of the last counter word for ``U[row, j]``, ``e = 8 column + j`` and purpose 7 for ``V[column, j]``. Every
operation is one fp32 rounding, none fused; c is 1 / sqrt(n) rounded once::

    u[row, column] = c * (((U[row,0] V[column,0]) + U[row,1] V[column,1]) + ...)

Vectors (seed 20261120, tensor 0, round 0, k 0, p 0), as fp32 bits of elements 0 to 7, of a matrix of 5 columns::

    normal      3f9a2d0d 3f075a7f 4028d867 bccb243e bf9f118d bd5588c8 be792820 bfbdba65
    rank 1      bf05bae1 be639f82 3d8d361c bdd02ec0 bdddc3e3 bfe60b96 bf43c7f5 3e72ea34
    rank 2      bf31b131 bed5ad40 40140434 bef7de80 3e942873 bf61d631 be6ae85f c022af90
    rank 8      c03706d8 bf817dda 3fd5334d c059552d bfad3744 be6e31c7 bde901f4 bfdfaad8
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.philox import MAX_ELEMENTS, Purpose, last_word, philox4x32

Distribution = Literal["normal", "rademacher", "low_rank"]
DISTRIBUTIONS: tuple[str, ...] = get_args(Distribution)

MAX_RANK = 8
"""The largest rank of a direction: as many numbers stand between one row's factors and the next row's."""

LOG_COEFFICIENTS = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
SIN_COEFFICIENTS = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
COS_COEFFICIENTS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
SQRT_HALF = 0.70710678
LN_2 = 0.6931471805599453
PI_4 = 0.7853981633974483

_F = np.float32


class Site(NamedTuple):
    """Where a tensor's directions are drawn: all that a stream needs besides element, local step and direction.

    Attributes:
        seed: The run's 64-bit seed.
        distribution: ``normal``, ``rademacher`` or ``low_rank``.
        tensor: The tensor's position in the order handed to the optimizer.
        round: The round r.
        first: Number of the site's first direction, which every p is counted from: who probes directions of its own
            has a stretch of the numbers for itself.
        rank: Rank of a direction of low rank.
        columns: Columns of a direction of low rank; 0 where elements are drawn one by one.
    """

    seed: int
    distribution: Distribution
    tensor: int
    round: int
    first: int = 0
    rank: int = 1
    columns: int = 0

    @classmethod
    def of(
        cls, seed: int, distribution: Distribution, rank: int, tensor: int, shape: Sequence[int], round: int
    ) -> Site:
        """The site of a tensor of a shape."""
        low = distribution == "low_rank" and len(shape) > 1
        return cls(seed, distribution, tensor, round, 0, rank, math.prod(shape[1:]) if low else 0)

    def word(self, k: int, p: int = 0, count: int = 1, purpose: Purpose = Purpose.DIRECTIONS) -> int:
        """The last counter word of direction p in local step k, after which come those of p + 1, p + 2 and so on.

        Args:
            k: The local step.
            p: The direction, counted from the site's first.
            count: How many directions are to be drawn from p on.
            purpose: What is drawn: elements, or factors of rows or columns.

        Raises:
            ValueError: If one of them does not fit 14 bits, or k does not.
        """
        last_word(purpose, k, self.first + p + count - 1)
        return last_word(purpose, k, self.first + p)


def check_numel(numel: int, name: str) -> None:
    """Refuses tensors whose elements the counter cannot address.

    Raises:
        ValueError: If ``numel`` exceeds 2**34.
    """
    if numel > MAX_ELEMENTS:
        raise ValueError(f"tensor {name!r} has {numel} elements; a stream addresses at most 2**34 a tensor")


def check_matrix(shape: Sequence[int], name: str) -> None:
    """Refuses matrices whose factors the counter cannot address.

    Raises:
        ValueError: If rows or columns exceed 2**31.
    """
    for what, count in (("rows", shape[0]), ("columns", math.prod(shape[1:]))):
        if MAX_RANK * count > MAX_ELEMENTS:
            raise ValueError(f"tensor {name!r} has {count} {what}; a direction of low rank has at most 2**31 of them")


def counter_words(
    index: NDArray[np.int64], site: Site, k: int, p: int, purpose: Purpose = Purpose.DIRECTIONS
) -> NDArray[np.uint32]:
    """Random words of the blocks ``index``, shape ``[len(index), 4]``."""
    counter = np.empty((len(index), 4), dtype=np.uint32)
    counter[:, 0] = index
    counter[:, 1] = site.tensor
    counter[:, 2] = site.round
    counter[:, 3] = site.word(k, p, purpose=purpose)
    return philox4x32(counter, site.seed)


def log(u: NDArray[np.float32]) -> NDArray[np.float32]:
    """Natural logarithm of ``u`` in (0, 1], in the operations listed above."""
    bits = u.view(np.uint32)
    exponent = (bits >> np.uint32(23)).astype(np.int32) - 126
    mantissa = (bits & np.uint32(0x007FFFFF) | np.uint32(0x3F000000)).view(np.float32)
    low = mantissa < _F(SQRT_HALF)
    exponent = np.where(low, exponent - 1, exponent).astype(np.float32)
    x = np.where(low, mantissa + mantissa, mantissa) - _F(1)
    w = x * x
    y = np.full_like(x, _F(LOG_COEFFICIENTS[0]))
    for coefficient in LOG_COEFFICIENTS[1:]:
        y = y * x + _F(coefficient)
    y = y * x
    y = y * w
    y = y - _F(0.5) * w
    return (x + y) + exponent * _F(LN_2)


def sine_cosine(b: NDArray[np.uint32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sine and cosine of the angle ``2 pi b / 2^32``, in the operations listed above."""
    q = b >> np.uint32(29)
    t = ((b & np.uint32(0x1FFFFFFF)) >> np.uint32(5)).astype(np.float32) * _F(2.0**-24)
    t = t * _F(PI_4)
    t = np.where(q & np.uint32(1), _F(PI_4) - t, t)
    w = t * t
    s0, s1, s2 = (_F(c) for c in SIN_COEFFICIENTS)
    c0, c1, c2 = (_F(c) for c in COS_COEFFICIENTS)
    sine = ((s0 * w + s1) * w + s2) * w
    sine = sine * t + t
    cosine = ((c0 * w + c1) * w + c2) * w
    cosine = cosine * w
    cosine = cosine - _F(0.5) * w
    cosine = cosine + _F(1)
    swap = ((q + np.uint32(1)) & np.uint32(2)) != 0
    sine, cosine = np.where(swap, cosine, sine), np.where(swap, sine, cosine)
    sine = np.where(q & np.uint32(4), -sine, sine)
    cosine = np.where((q + np.uint32(2)) & np.uint32(4), -cosine, cosine)
    return sine, cosine


def box_muller(a: NDArray[np.uint32], b: NDArray[np.uint32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two independent standard normals from the words ``a`` and ``b``."""
    u = (a.astype(np.float32) + _F(1)) * _F(2.0**-32)
    radius = np.sqrt(_F(-2) * log(u))
    sine, cosine = sine_cosine(b)
    return radius * cosine, radius * sine


def normals(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Four standard normals from the four words of each call, shape ``[calls, 4]``."""
    values = np.empty(words.shape, dtype=np.float32)
    values[:, 0], values[:, 1] = box_muller(words[:, 0], words[:, 1])
    values[:, 2], values[:, 3] = box_muller(words[:, 2], words[:, 3])
    return values


def signs(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    """128 signs from the four words of each call, shape ``[calls, 128]``."""
    bits = words[:, :, None] >> np.arange(32, dtype=np.uint32) & np.uint32(1)
    return (_F(1) - _F(2) * bits.astype(np.float32)).reshape(len(words), 128)


def factors(site: Site, purpose: Purpose, k: int, p: int, start: int, count: int) -> NDArray[np.float32]:
    """U of ``count`` rows from ``start`` on, or V of columns, shape ``[count, rank]``."""
    calls = np.arange(MAX_RANK * start // 4, MAX_RANK * (start + count) // 4, dtype=np.int64)
    return normals(counter_words(calls, site, k, p, purpose)).reshape(count, MAX_RANK)[:, : site.rank]


def low_rank(site: Site, k: int, p: int, start: int, count: int) -> NDArray[np.float32]:
    """Elements ``start`` to ``start + count - 1`` of a direction of low rank, row after row, shape ``[count]``."""
    row, column = np.divmod(np.arange(start, start + count, dtype=np.int64), site.columns)
    first, last = int(row[0]), int(row[-1])
    u = factors(site, Purpose.ROWS, k, p, first, last - first + 1)[row - first]
    v = factors(site, Purpose.COLUMNS, k, p, 0, site.columns)[column]
    total = u[:, 0] * v[:, 0]
    for j in range(1, site.rank):
        total = total + u[:, j] * v[:, j]
    return _F(1.0 / math.sqrt(site.rank)) * total


def direction(site: Site, k: int, p: int, start: int, count: int) -> NDArray[np.float32]:
    """Elements ``start`` to ``start + count - 1`` of u(r, k, p) for one tensor, shape ``[count]``, fp32.

    Raises:
        ValueError: If ``k`` or ``p`` do not fit 14 bits or the elements lie beyond 2**34.
    """
    check_numel(start + count, f"tensor {site.tensor}")
    if site.columns and count:
        return low_rank(site, k, p, start, count)
    per_block, drawn = (128, signs) if site.distribution == "rademacher" else (4, normals)
    first, last = start // per_block, -(-(start + count) // per_block)
    values = drawn(counter_words(np.arange(first, last, dtype=np.int64), site, k, p))
    offset = start - first * per_block
    return values.reshape(-1)[offset : offset + count]
