"""Clients that are there by day more than by night, or the other way round, each in a time zone of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiso_pl.federation.presence.availability import THERE, ZONE, Availability, Clients, check_share, check_whole
from hiso_pl.zeroth_order.philox import Purpose, uniform_each


class DayAndNight(Availability):
    """By day a client is there with one probability, by night with another; when it is day depends on its time zone.

    Day and night are each half of a period. A client's zone is drawn once; zone z of Z is z / Z of a period ahead.

    Args:
        period: Rounds of a day and a night together, at least 2.
        day: Probability to be there by day, above 0 and at most 1.
        night: Probability to be there by night, in [0, 1].
        zones: Number of time zones, 1 if all clients have the same.
    """

    def __init__(self, period: int = 100, day: float = 0.9, night: float = 0.1, zones: int = 24) -> None:
        check_whole("period", period, 2)
        check_share("day", day)
        if not 0.0 <= night <= 1.0:
            raise ValueError(f"night={night} must be in [0, 1]")
        check_whole("zones", zones)
        self.period = period
        self.day = day
        self.night = night
        self.zones = zones

    def there(self, seed: int, clients: Clients, round: int) -> NDArray[np.bool_]:
        """See :class:`Availability`."""
        zone = (uniform_each(seed, Purpose.PRESENCE, clients, k=ZONE) * self.zones).astype(np.int64)
        # 2 (r + period z / Z) mod 2 period < period, in whole numbers
        by_day = 2 * (round * self.zones + self.period * zone) % (2 * self.period * self.zones)
        share = np.where(by_day < self.period * self.zones, self.day, self.night)
        return uniform_each(seed, Purpose.PRESENCE, clients, round=round, k=THERE) < share
