"""What a transform is: what a client does to its scalars before they leave it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.part import Part, checked_scalars, moderate
from hiso_pl.zeroth_order.record import BITS_PER_SCALAR, RoundRecord

State = dict[str, NDArray[np.float32]]


class Departure(NamedTuple):
    """Whose scalars leave, and when.

    Attributes:
        seed: The run's seed.
        round: The round r.
        client: The client.
        before: The record of the round before; None at the start.
        state: The transform's state, which all clients know.
    """

    seed: int
    round: int
    client: int
    before: RoundRecord | None
    state: Mapping[str, NDArray[np.float32]] = MappingProxyType({})


class Transform(Part, ABC):
    """What a client does to its scalars before they leave it: clipping, noise, signs.

    The client's own local moves are made with its scalars as they were.

    It may keep state, which every client knows as the records alone advance it: :meth:`initial` and :meth:`advance`.
    Then it is a part of checkpoint and digest, and of what a replay needs.

    Attributes:
        withholds_losses: Whether raw losses must not leave either, as they would tell what the transform takes away.
            Then the loss for the log is left out, and ranks cannot share the probes of a slot.
        is_format: Whether a message can carry no scalars but those it makes, so that what a hostile client puts in
            their place goes through it as well.
    """

    withholds_losses: ClassVar[bool] = True
    is_format: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, scalars: NDArray[np.float32], departure: Departure) -> NDArray[np.float32]:
        """Returns the scalars to send, fp32 of the same shape.

        It must be a function of its arguments.

        Args:
            scalars: The client's scalars g, all finite, shape ``[tau, P]``.
            departure: Whose they are, and of which round.
        """

    def leaving(self, scalars: NDArray[np.float32], departure: Departure) -> NDArray[np.float32]:
        """What leaves, by the transform's own words.

        Scalars that are not all finite are not asked about: nothing of them leaves, and the slot is dropped, as a clip
        would make infinity finite, and a sign would hide what is no number. A zero is always +0.0 on either side: the
        exchange makes it so, before the transform where losses travel and after it where scalars do.

        Raises:
            ValueError: If it is not what can be sent in place of the scalars.
        """
        if not np.isfinite(scalars).all():
            return np.full_like(scalars, np.nan)
        sent = self(scalars + np.float32(0.0), departure)
        checked = checked_scalars(sent, scalars.shape, moderate(scalars), f"transform={self!r}")
        return checked + np.float32(0.0)

    # State, for those that have some

    def initial(self) -> State:
        """The state before the first round, by name: fp32 arrays of a few elements."""
        return {}

    def advance(self, state: State, record: RoundRecord, averaged: int) -> None:
        """Advances the state in place; called after every round that is not empty.

        It must be a function of its arguments, to the bit: every rank computes it for itself, and a replay again.

        Args:
            state: The state of the round.
            record: What the round decided.
            averaged: How many clients' scalars went into each of the record's.
        """

    # What it costs

    def sent_bits(self, count: int) -> int:
        """Bits of a client's scalars of one round, of which there are ``count``."""
        return BITS_PER_SCALAR * count

    def summed_bits(self, cohort: int) -> int:
        """Bits of the sum of one scalar over a cohort of so many, each as it was sent."""
        return BITS_PER_SCALAR

    @property
    def signs_alone(self) -> bool:
        """Whether all that leaves is +1 and -1."""
        return False
