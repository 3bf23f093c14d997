"""Update rules: what is done with the round's direction. Nothing hidden: no decay, no clipping."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from hiso_pl.zeroth_order.part import Part
from hiso_pl.zeroth_order.tensors import Target


class UpdateRule(Part, ABC):
    """How x moves, given the direction sum_k D_k.

    Attributes:
        fused: Whether the rule is the plain step that the update kernel takes in its one pass.
    """

    fused: ClassVar[bool] = False

    def initial(self, parameter: Tensor, target: Target) -> dict[str, Tensor]:
        """State kept for a tensor, by name: fp32 tensors. It is in checkpoint and digest, and checked like H.

        Args:
            parameter: The tensor.
            target: What else is known of it.
        """
        return {}

    @abstractmethod
    def move(self, x: Tensor, direction: Tensor, lr: float, state: dict[str, Tensor], target: Target) -> None:
        """Moves ``x`` and ``state`` in place.

        Args:
            x: The parameters.
            direction: sum_k D_k, fp32 of the same shape.
            lr: Learning rate eta; round it to fp32 where it is used.
            state: The tensor's state.
            target: The tensor, the round, and how many rounds have moved the state before.
        """
