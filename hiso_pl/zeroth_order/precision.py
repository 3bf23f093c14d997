"""What forward passes compute in: trained weights cast where nothing is probed, frozen ones for good."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from hiso_pl.zeroth_order.frozen import Frozen
from hiso_pl.zeroth_order.points import converted, standing_at

_SAMPLE = 4096
_MEDIAN = 0.6745


class CastView:
    """The parameters in another storage type, for forward passes at x where nothing is probed.

    Args:
        parameters: The parameters.
        dtype: The type; fp32 leaves them as they are.
    """

    def __init__(self, parameters: Sequence[Tensor], dtype: torch.dtype) -> None:
        self._parameters = parameters
        self._values = [] if dtype == torch.float32 else [converted(p.data, dtype) for p in parameters]

    def active(self) -> AbstractContextManager[None]:
        """The parameters are the cast ones inside the block."""
        return standing_at(self._parameters, self._values) if self._values else nullcontext()


def cast_frozen(network: nn.Module, dtype: torch.dtype) -> None:
    """Stores the floating-point parameters that are not trained in another type, for good; buffers stay as they are."""
    for p in network.parameters():
        if not p.requires_grad and p.is_floating_point():
            p.data = converted(p.data, dtype)


def displacements_in_ulps(parameters: Sequence[Tensor], frozen: Frozen, mu: float, dtype: torch.dtype) -> float:
    r"""How far a direction moves the weights in units in the last place of a type, in the median over weights.

    .. math:: \mathrm{median}\; \frac{\mu\, m\, c / \sqrt{H}}{\mathrm{ulp}(x)}

    with m = 0.6745, the median of a standard normal's magnitude, over at most 4096 evenly spaced weights a tensor. A
    structured H is taken for 1.

    Args:
        parameters: x.
        frozen: H of the round.
        mu: Size of the displacements.
        dtype: The type.
    """
    found = []
    for p, h in zip(parameters, frozen.hessians, strict=True):
        step = max(1, p.numel() // _SAMPLE)
        x = p.detach().reshape(-1)[::step].abs().double()
        root = torch.ones_like(x)
        if isinstance(h, Tensor) and h.numel() in (1, p.numel()):
            root = h.reshape(-1)[:: step if h.numel() == p.numel() else 1].double().sqrt()
        info = torch.finfo(dtype)
        ulp = info.eps * torch.exp2(torch.floor(torch.log2(x.clamp(min=info.tiny))))
        found.append((mu * frozen.scale * _MEDIAN / root / ulp).expand(x.shape))
    return float(torch.cat(found).median())
