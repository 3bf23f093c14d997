"""Where tensors of a state are worked on, which may be another place than where they live."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Workplace(Protocol):
    """Has groups of tensors at hand, one group after another.

    Attributes:
        device: Where they are worked on.
    """

    device: torch.device

    def through(self, groups: Sequence[Sequence[Tensor]]) -> Iterator[None]:
        """Goes from one group of tensors to the next; each is at hand until the next step."""

    def at_hand(self, value: Any, rows: Tensor | None = None) -> Any:
        """What stands for a tensor that lives elsewhere, or some rows of it; a copy of one that is not at hand.

        What is no tensor is given as it is.
        """

    def moved(self, tensors: Iterable[Tensor]) -> None:
        """Has tensors follow what stands for them, which has changed."""

    def finish(self) -> None:
        """Waits until all have followed."""


class Brings(Protocol):
    """A state that lives elsewhere than where it is worked on, or parts of whose update are still to be done."""

    def brought(
        self, parts: Sequence[Collection[int]], beside: Sequence[Sequence[Tensor]] | None = None
    ) -> Iterator[None]:
        """Goes through parts of the tensors, given by position: each is at hand, and of the round, when it is come to.

        Args:
            parts: The parts.
            beside: For each of them what else is to be at hand.
        """

    def complete(self) -> None:
        """Does what an update has left to be done."""
