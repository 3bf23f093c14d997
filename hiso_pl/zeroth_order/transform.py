"""What a transform is: what a client does to its scalars before they leave it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.part import Part, checked_scalars, moderate
from hiso_pl.zeroth_order.record import RoundRecord


class Departure(NamedTuple):
    """Whose scalars leave, and when.

    Attributes:
        seed: The run's seed.
        round: The round r.
        client: The client.
        before: The record of the round before; None at the start.
    """

    seed: int
    round: int
    client: int
    before: RoundRecord | None


class Transform(Part, ABC):
    """What a client does to its scalars before they leave it: clipping, noise, signs.

    The client's own local moves are made with its scalars as they were.

    Attributes:
        withholds_losses: Whether raw losses must not leave either, as they would tell what the transform takes away.
            Then the loss for the log is left out, and ranks cannot share the probes of a slot.
    """

    withholds_losses: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, scalars: NDArray[np.float32], departure: Departure) -> NDArray[np.float32]:
        """Returns the scalars to send, fp32 of the same shape.

        It must be a function of its arguments.

        Args:
            scalars: The client's scalars g, shape ``[tau, P]``.
            departure: Whose they are, and of which round.
        """

    def leaving(self, scalars: NDArray[np.float32], departure: Departure) -> NDArray[np.float32]:
        """What leaves, by the transform's own words.

        Raises:
            ValueError: If it is not what can be sent in place of the scalars.
        """
        sent = self(scalars.copy(), departure)
        return checked_scalars(sent, scalars.shape, moderate(scalars), f"transform={self!r}")
