"""The fast CPU backend, on compiled loops. Threads split the range of blocks and so cannot change a bit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.zeroth_order.kernels import numba_loops as loops
from hiso_pl.zeroth_order.kernels.base import Decay, Kernels, Offset, advancing, tree_sum
from hiso_pl.zeroth_order.kernels.blocks import Average, BlockFactor, Blocks
from hiso_pl.zeroth_order.streams import Site

_NONE = np.ones(1, dtype=np.float32)
_WHOLE = np.zeros(1, dtype=np.int64)
_WIDTHS = {torch.float32: loops.FP32, torch.bfloat16: loops.BF16, torch.float16: loops.FP16}
_NO_LEAVES = np.empty((0, 0), dtype=np.float64)
_MIN_BLOCKS_PER_THREAD = 32
MOST_KEPT = 1 << 24
"""Numbers of a tensor's column factors that a thread keeps for a pass, 64 MiB; more are drawn each time."""


def _flat(tensor: Tensor) -> NDArray[Any]:
    """Its elements; of a 16-bit tensor the bits, as NumPy knows no bf16."""
    flat = tensor.detach().view(-1)
    return flat.numpy() if tensor.dtype == torch.float32 else flat.view(torch.uint16).numpy()


class _Argument:
    """A tensor as a flat array; one that is not contiguous goes through a copy that is written back."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._contiguous = tensor.detach().contiguous()
        self.array = _flat(self._contiguous)

    def write_back(self) -> None:
        if self._contiguous.data_ptr() != self._tensor.data_ptr():
            self._tensor.copy_(self._contiguous)


def _stream(site: Site) -> tuple[Any, ...]:
    key, scale = (site.seed & 0xFFFFFFFF, site.seed >> 32), np.float32(1.0 / math.sqrt(site.rank))
    return site.distribution == "rademacher", site.round, *key, site.rank, scale, MOST_KEPT


def _place(site: Site) -> tuple[int, int]:
    return site.tensor, site.columns


def _first_word(site: Site, weights: NDArray[np.float32]) -> int:
    """The counter word of k = 0 and p = 0; refuses weights whose directions counter words do not hold."""
    steps, directions = weights.shape
    site.word(max(steps - 1, 0), 0, directions)
    return site.word(0)


def _probe(site: Site, k: int, offset: Offset | None, drift: NDArray[np.float32], lr: float) -> tuple[Any, ...]:
    p, mu = offset or (0, 0.0)
    words = site.word(k, p), _first_word(site, drift)
    return offset is not None, np.float32(mu), *words, drift, np.float32(lr)


def _step(site: Site, weights: NDArray[np.float32], lr: float) -> tuple[Any, ...]:
    return weights, _first_word(site, weights), np.float32(lr)


def _average(decay: Decay | None, advance: bool, tau: int) -> tuple[Any, ...]:
    nu, eps, floor, steps = decay or Decay(0.0, 0.0, 0.0, "last")
    taken = advancing(steps, range(tau))
    return advance, taken[0], taken[-1], *(np.float32(c) for c in (1.0 - nu, nu, eps, floor))


def _hessian(hessian: Tensor | None) -> tuple[_Argument | None, NDArray[np.float32], int]:
    """The Hessian's argument, its array, and its kind: 0 none, 1 one element, 2 elementwise."""
    if hessian is None:
        return None, _NONE, 0
    argument = _Argument(hessian)
    return argument, argument.array, 1 if hessian.numel() == 1 else 2


def _count(elements: int) -> int:
    """Blocks that hold so many elements."""
    return -(-elements // loops.BLOCK)


class NumbaKernels(Kernels):
    """See :class:`~hiso_pl.zeroth_order.kernels.Kernels`. Uses as many threads as ``torch.get_num_threads()``."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def _blocks(self, blocks: int, run: Callable[[int, int], None]) -> None:
        parts = max(1, min(torch.get_num_threads(), blocks // _MIN_BLOCKS_PER_THREAD))
        if parts == 1:
            run(0, blocks)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max_workers=torch.get_num_threads(), thread_name_prefix="hiso_pl-kernel")
        edges = [blocks * i // parts for i in range(parts + 1)]
        for future in [self._pool.submit(run, lo, hi) for lo, hi in itertools.pairwise(edges)]:
            future.result()

    def combine(self, out: Tensor, site: Site, k: int, weights: NDArray[np.float32]) -> None:
        """s_k in one pass."""
        target, stream, word = _Argument(out), _stream(site), site.word(k, 0, len(weights))
        self._blocks(
            _count(out.numel()),
            lambda lo, hi: loops.combine(target.array, lo, hi, stream, _place(site), word, weights),
        )
        target.write_back()

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
        """A probe point in one pass."""
        if offset is None and len(drift) == 0:
            out.copy_(base if rows is None else base[rows].view(out.shape))
            return
        if out.numel() == 0:
            return
        target, source = _Argument(out), _Argument(base)
        _, h, kind = _hessian(hessian)
        width, stream, probe = _WIDTHS[out.dtype], _stream(site), _probe(site, k, offset, drift, lr)
        chosen = _WHOLE if rows is None else rows.numpy()
        size = out.numel() // len(chosen)
        self._blocks(
            len(chosen) * _count(size),
            lambda lo, hi: loops.displace(
                target.array, width, source.array, h, kind, chosen, size, lo, hi, _place(site), stream, probe
            ),
        )
        target.write_back()

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
        """The update, new H included, in one pass."""
        target = _Argument(x)
        h_argument, h, kind = _hessian(hessian)
        advance = decay is not None and hessian is not None
        if advance and kind == 1 and x.numel() == 1:
            kind = 2
        leaves = np.empty((len(weights), _count(x.numel())), dtype=np.float64) if squares else _NO_LEAVES
        stream, step, average = _stream(site), _step(site, weights, lr), _average(decay, advance, len(weights))
        self._blocks(
            _count(x.numel()),
            lambda lo, hi: loops.update(
                target.array, h, kind, lo, hi, _place(site), stream, step, average, squares, leaves
            ),
        )
        target.write_back()
        if advance and h_argument is not None:
            h_argument.write_back()
        return np.array([tree_sum(row) for row in leaves]) if squares else None

    def factor(self, hessian: Tensor, blocks: Blocks, before: BlockFactor | None = None) -> BlockFactor | None:
        """By compiled loops, which are compiled for those alone who ask."""
        from hiso_pl.zeroth_order.kernels.numba_blocks import NumbaFactor

        return NumbaFactor.made(hessian, blocks, self._blocks, before)

    def advance_blocks(self, hessian: Tensor, blocks: Blocks, d: Tensor, average: Average) -> None:
        """By compiled loops."""
        from hiso_pl.zeroth_order.kernels.numba_blocks import advance

        advance(hessian, blocks, d, average, self._blocks)

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
        """A probe point of all tensors in one pass, shared among the threads as a whole."""
        plain = all(t.is_contiguous() for t in (*outs, *bases, *hessians) if t is not None)
        if not outs or not plain or (offset is None and len(drift) == 0):
            super().displace_all(outs, bases, hessians, sites, k, offset, drift, lr)
            return
        table, blocks = _table(outs, bases, hessians, sites, advance=False)
        width, stream, probe = _WIDTHS[outs[0].dtype], _stream(sites[0]), _probe(sites[0], k, offset, drift, lr)
        self._blocks(blocks, lambda lo, hi: loops.displace_all(table, width, lo, hi, stream, probe))

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
        """The update of all tensors in one pass, shared among the threads as a whole."""
        if not xs or not all(t.is_contiguous() for t in (*xs, *hessians) if t is not None):
            return super().update_all(xs, hessians, sites, weights, lr, decay, squares)
        advance = decay is not None and hessians[0] is not None
        table, blocks = _table(xs, xs, hessians, sites, advance)
        leaves = np.empty((len(weights), blocks), dtype=np.float64) if squares else _NO_LEAVES
        stream, step, average = _stream(sites[0]), _step(sites[0], weights, lr), _average(decay, advance, len(weights))
        self._blocks(blocks, lambda lo, hi: loops.update_all(table, lo, hi, stream, step, average, squares, leaves))
        if not squares:
            return None
        edges = itertools.pairwise([*table[:, 6].tolist(), blocks])
        return np.array([[tree_sum(row[lo:hi]) for row in leaves] for lo, hi in edges])


def _table(
    outs: Sequence[Tensor],
    bases: Sequence[Tensor],
    hessians: Sequence[Tensor | None],
    sites: Sequence[Site],
    advance: bool,
) -> tuple[NDArray[np.int64], int]:
    """The table of :func:`.numba_loops.displace_all`, and the number of blocks."""
    rows, blocks = [], 0
    for out, base, hessian, site in zip(outs, bases, hessians, sites, strict=True):
        kind = 0 if hessian is None else 1 if hessian.numel() == 1 else 2
        if advance and kind == 1 and base.numel() == 1:
            kind = 2
        address = _NONE.ctypes.data if hessian is None else hessian.data_ptr()
        rows.append((out.data_ptr(), base.data_ptr(), address, kind, base.numel(), site.tensor, blocks, site.columns))
        blocks += _count(base.numel())
    return np.array(rows, dtype=np.int64), blocks
