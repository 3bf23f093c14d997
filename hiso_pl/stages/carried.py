"""A cut network that lives in host memory, and whose stages are brought to a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hiso_pl.stages.carrier import Carrier
from hiso_pl.stages.cut import Cut
from hiso_pl.zeroth_order.workplace import Workplace


class CarriedCut(Cut):
    """A network's stages, brought to a device one after another.

    What is trained lives in host memory, and so do the frozen parameters of the blocks. All else, frozen parameters
    that are in no block and buffers, is to be on the device.

    Args:
        network: The network.
        parameters: The trained ones, in tensor order.
        device: The device.
        args: What else :class:`~.cut.Cut` takes.

    Attributes:
        carrier: What brings them.
        place: The same, as probes know it.
        frozen: Parameters that are not trained and live in host memory.
    """

    def __init__(self, network: nn.Module, parameters: Sequence[Tensor], device: torch.device, *args: Any) -> None:
        super().__init__(network, parameters, *args)
        self.carrier = Carrier(device)
        self.place: Workplace = self.carrier
        blocks = zip(network.parameters(), self.block_of(network), strict=True)
        self._frozen = [(p, block) for p, block in blocks if block is not None and not p.requires_grad]
        self.frozen: Sequence[Tensor] = [p for p, _ in self._frozen]

    def frozen_of(self, stage: int) -> list[Tensor]:
        """Those of a stage's blocks."""
        return [p for p, block in self._frozen if self.stage_of(block) == stage]

    def settle_in(self) -> list[Tensor]:
        """Has what lives in host memory live where the device reads it by itself; gives these parameters."""
        stay = [*self._parameters, *self.frozen]
        for p in stay:
            p.data = self.carrier.kept(p.data)
        return stay
