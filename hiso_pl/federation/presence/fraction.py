"""A share of the clients that is there in every round."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiso_pl.federation.presence.availability import THERE, Availability, Clients, check_share, check_whole
from hiso_pl.zeroth_order.philox import Purpose, uniform_each


class Fraction(Availability):
    """Every client is there with the same probability, independently of others.

    Args:
        share: The probability, above 0 and at most 1.
        spell: Rounds that a client stays there or away before that is drawn again; clients do not change together.
    """

    def __init__(self, share: float = 0.5, spell: int = 1) -> None:
        check_share("share", share)
        check_whole("spell", spell)
        self.share = share
        self.spell = spell

    def there(self, seed: int, clients: Clients, round: int) -> NDArray[np.bool_]:
        """See :class:`Availability`."""
        found = np.zeros(len(clients), dtype=np.bool_)
        turns = (round + clients % self.spell) // self.spell
        for turn in np.unique(turns):
            now = turns == turn
            drawn = uniform_each(seed, Purpose.PRESENCE, clients[now], round=int(turn), k=THERE)
            found[now] = drawn < self.share
        return found
