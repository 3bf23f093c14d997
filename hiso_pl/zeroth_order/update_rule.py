"""Update rules: what is done with the round's direction. Nothing hidden: no decay, no clipping.

A rule of your own is a subclass with :meth:`UpdateRule.move`, named in the YAML by its ``class_path``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor


class UpdateRule(ABC):
    """How x moves, given the direction sum_k D_k.

    Attributes:
        fused: Whether the rule is the plain step that the update kernel takes in its one pass.
    """

    fused: ClassVar[bool] = False

    def initial(self, parameter: Tensor) -> dict[str, Tensor]:
        """State kept for a tensor, by name: fp32 tensors of its shape. It is checkpointed and checked like H."""
        return {}

    @abstractmethod
    def move(self, x: Tensor, direction: Tensor, lr: float, state: dict[str, Tensor]) -> None:
        """Moves ``x`` in place. ``direction`` may be overwritten; ``lr`` is to be rounded to fp32 once."""


class Sgd(UpdateRule):
    """The plain step ``x' = x - lr * sum_k D_k``, taken inside the update kernel."""

    fused = True

    def move(self, x: Tensor, direction: Tensor, lr: float, state: dict[str, Tensor]) -> None:
        """The same step by buffer, for a structured preconditioner."""
        x.sub_(direction * float(np.float32(lr)))


class Momentum(UpdateRule):
    """Heavy-ball momentum: ``v' = beta v + sum_k D_k``, ``x' = x - lr v'``.

    Args:
        beta: Share of the velocity that is kept, in [0, 1).
    """

    def __init__(self, beta: float = 0.9) -> None:
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"beta={beta} must be in [0, 1)")
        self.beta = beta

    def initial(self, parameter: Tensor) -> dict[str, Tensor]:
        """A velocity of zeros."""
        return {"momentum": torch.zeros_like(parameter, dtype=torch.float32, requires_grad=False)}

    def move(self, x: Tensor, direction: Tensor, lr: float, state: dict[str, Tensor]) -> None:
        """One step; each operation rounds once."""
        velocity = state["momentum"]
        velocity.mul_(float(np.float32(self.beta)))
        velocity.add_(direction)
        x.sub_(velocity * float(np.float32(lr)))
