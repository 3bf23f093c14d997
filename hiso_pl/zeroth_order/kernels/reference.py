"""The plain reference: NumPy, whole tensors, the lines of the specification in their order."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.zeroth_order.kernels.base import Decay, Kernels, Offset, advancing, tree_sum
from hiso_pl.zeroth_order.streams import Site, direction

_F = np.float32


def _read(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().reshape(-1).numpy()


def _write(tensor: Tensor, values: NDArray[np.float32]) -> None:
    tensor.copy_(torch.from_numpy(values).reshape(tensor.shape))


def weighted_sum(numel: int, site: Site, k: int, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """s_k, directions in ascending order."""
    s: NDArray[np.float32] = weights[0] * direction(site, k, 0, 0, numel)
    for p in range(1, len(weights)):
        s = s + weights[p] * direction(site, k, p, 0, numel)
    return s


class ReferenceKernels(Kernels):
    """See :class:`~hiso_pl.zeroth_order.kernels.Kernels`."""

    def combine(self, out: Tensor, site: Site, k: int, weights: NDArray[np.float32]) -> None:
        """s_k by NumPy."""
        _write(out, weighted_sum(out.numel(), site, k, weights))

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
        """A probe point by NumPy; of which rows are taken once all are there."""
        if rows is not None:
            whole = torch.empty_like(base, memory_format=torch.contiguous_format)
            self.displace(whole, base, hessian, site, k, offset, drift, lr)
            out.copy_(whole[rows].view(out.shape))
            return
        x = _read(base)
        v: Any = None if offset is None else _F(offset.mu) * direction(site, k, offset.p, 0, x.size)
        if len(drift):
            total = weighted_sum(x.size, site, 0, drift[0])
            for j in range(1, len(drift)):
                total = total + weighted_sum(x.size, site, j, drift[j])
            v = -(_F(lr) * total) if v is None else v - _F(lr) * total
        if v is None:
            _write(out, x.copy())
            return
        if hessian is not None:
            v = v / np.sqrt(_read(hessian))
        _write(out, x + v)

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
        """The update by NumPy."""
        steps = [weighted_sum(x.numel(), site, k, weights[k]) for k in range(len(weights))]
        total = steps[0]
        for s in steps[1:]:
            total = total + s
        root = _F(1) if hessian is None else np.sqrt(_read(hessian))
        moved = _read(x) - _F(lr) * (total / root)
        directions = [s / root for s in steps]
        if decay is not None and hessian is not None:
            h = _read(hessian)
            for d in advancing(decay.steps, directions):
                h = _F(1.0 - decay.nu) * h + _F(decay.nu) * (d * d + _F(decay.eps))
                h = np.where(h < _F(decay.floor), _F(decay.floor), h)
            _write(hessian, h)
        _write(x, moved)
        if not squares:
            return None
        return np.array([tree_sum(d.astype(np.float64) * d.astype(np.float64)) for d in directions])
