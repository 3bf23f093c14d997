"""Kernels: the three passes over memory that a round needs, each with the same bits on every backend.

``numerics: 1``, per element, every operation one fp32 rounding, in this order (h = sqrt(H); without H no division)::

    s_k = ((w[k,0] u_0) + w[k,1] u_1) + ...                          combine
    out = base + (±mu u_p - lr S) / h,  S = s_0 + s_1 + ...          displace: a probe point, one pass from the base
    x'  = x - lr (S / h),  D_k = s_k / h                             update
    H'  = max((1-nu) H + nu (D_k D_k + eps), floor)                  update, k = tau-1, or 0, or every k in order

:mod:`.reference` reads like these lines and is the oracle of the tests; :mod:`.numba_cpu` is the fast backend of the
CPU, :mod:`.triton_gpu` that of a GPU; :mod:`.torch_ops` runs on any device.
"""

from hiso_pl.zeroth_order.kernels.base import (
    BACKENDS,
    HESSIAN_UPDATES,
    Decay,
    HessianUpdate,
    Kernels,
    Offset,
    advancing,
    tree_sum,
)
from hiso_pl.zeroth_order.kernels.select import select

__all__ = [
    "BACKENDS",
    "HESSIAN_UPDATES",
    "Decay",
    "HessianUpdate",
    "Kernels",
    "Offset",
    "advancing",
    "select",
    "tree_sum",
]
