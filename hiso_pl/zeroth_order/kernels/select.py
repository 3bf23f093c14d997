"""The choice of a kernel backend; one is imported only when it is chosen."""

from __future__ import annotations

import importlib.util
import logging

import numpy as np
import torch

from hiso_pl.zeroth_order.kernels.base import BACKENDS, Kernels
from hiso_pl.zeroth_order.out_of_memory import is_out_of_memory
from hiso_pl.zeroth_order.streams import Site

log = logging.getLogger(__name__)


def select(backend: str, device: torch.device) -> Kernels:
    """The kernels for a device.

    Args:
        backend: ``auto`` (Numba on the CPU, Triton on a GPU, plain torch where they are not installed), ``reference``,
            ``numba``, ``triton`` or ``torch``.
        device: Where the parameters live.

    Raises:
        ValueError: If the backend is unknown, not installed, or does not run on the device.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} must be one of {', '.join(BACKENDS)}")
    if backend in ("reference", "numba") and device.type != "cpu":
        raise ValueError(f"backend={backend!r} runs on the CPU only, but the parameters are on {device}: use 'auto'")
    if backend == "triton" and device.type != "cuda":
        raise ValueError(f"backend='triton' runs on a GPU only, but the parameters are on {device}: use 'auto'")
    if backend in ("numba", "triton") and importlib.util.find_spec(backend) is None:
        raise ValueError(f"backend={backend!r} needs the package {backend}: install it, or use 'torch'")
    if backend == "auto":
        backend = _fastest(device)
    if backend == "reference":
        from hiso_pl.zeroth_order.kernels.reference import ReferenceKernels

        return ReferenceKernels()
    if backend == "numba":
        from hiso_pl.zeroth_order.kernels.numba_cpu import NumbaKernels

        return NumbaKernels()
    if backend == "triton":
        from hiso_pl.zeroth_order.kernels.triton_gpu import TritonKernels

        return TritonKernels()
    from hiso_pl.zeroth_order.kernels.torch_ops import TorchKernels

    return TorchKernels()


def _fastest(device: torch.device) -> str:
    """The fastest backend that works here; where it is the slow one, that is said."""
    name = {"cpu": "numba", "cuda": "triton"}.get(device.type)
    if name is None:
        return "torch"
    reason = "is not installed" if importlib.util.find_spec(name) is None else None
    if reason is None and name == "triton":
        reason = _why_no_triton(device)
    if reason is None:
        return name
    log.warning(
        "%s %s: the kernels run on plain torch operations, with the same bits but many times slower", name, reason
    )
    return "torch"


def _why_no_triton(device: torch.device) -> str | None:
    """Triton needs a C compiler, a folder to write to and a GPU it knows: a launch on one element tells."""
    try:
        from hiso_pl.zeroth_order.kernels.triton_gpu import TritonKernels

        out = torch.empty(1, device=device)
        TritonKernels().combine(out, Site(0, "normal", 0, 0), 0, np.ones(1, dtype=np.float32))
        out.cpu()
    except Exception as error:  # whatever a compiler or a driver can fail with
        if is_out_of_memory(error):
            raise
        first = str(error).strip().partition("\n")[0][:200]
        return f"does not run here ({first or type(error).__name__})"
    return None
