"""How fast clients compute and send: the seconds of a simulated clock."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiso_pl.federation.presence.availability import Clients
from hiso_pl.zeroth_order.philox import Purpose, uniform_each

_NORMAL = NormalDist()
COMPUTING, LINK = range(2)


class Pace(NamedTuple):
    """How fast some clients are, each shape ``[n]``.

    Attributes:
        examples: Examples a second, through one forward pass.
        bits: Bits a second over the client's link, either way.
        latency: Seconds until a message arrives, besides.
    """

    examples: NDArray[np.float64]
    bits: NDArray[np.float64]
    latency: NDArray[np.float64]


class Speeds(ABC):
    """How fast each client is: a pure function of seed and client, positive."""

    @abstractmethod
    def of(self, seed: int, clients: Clients) -> Pace:
        """How fast some clients are.

        Args:
            seed: The run's seed.
            clients: Their numbers, shape ``[n]``.
        """


class LogNormal(Speeds):
    r"""Speeds that are log-normal over the clients: :math:`v_i = \mathrm{median} \cdot e^{\sigma z_i}`, z normal.

    A client computes and sends at speeds of its own, drawn once and independently.

    Args:
        examples_per_second: Median of the examples that a client takes through a forward pass in a second; a backward
            pass counts as two.
        spread: Standard deviation sigma of the logarithm of that; 0 makes all clients alike. At 1 a client in six is
            2.7 times slower than the median, or slower still.
        bytes_per_second: Median of what a client's link carries in a second, each way.
        link_spread: Standard deviation of the logarithm of that.
        latency: Seconds until a message arrives, besides.
    """

    def __init__(
        self,
        examples_per_second: float = 100.0,
        spread: float = 0.5,
        bytes_per_second: float = 1e6,
        link_spread: float = 0.5,
        latency: float = 0.05,
    ) -> None:
        given = {"examples_per_second": examples_per_second, "bytes_per_second": bytes_per_second}
        for name, value in given.items():
            if not (value > 0.0 and math.isfinite(value)):
                raise ValueError(f"{name}={value} must be finite and above 0")
        for name, value in {"spread": spread, "link_spread": link_spread}.items():
            if not 0.0 <= value <= 10.0:
                raise ValueError(f"{name}={value} must be in [0, 10], as it is of a logarithm")
        if not (latency >= 0.0 and math.isfinite(latency)):
            raise ValueError(f"latency={latency} must be finite and at least 0")
        self.examples_per_second = examples_per_second
        self.spread = spread
        self.bytes_per_second = bytes_per_second
        self.link_spread = link_spread
        self.latency = latency

    def of(self, seed: int, clients: Clients) -> Pace:
        """See :class:`Speeds`."""
        return Pace(
            self.examples_per_second * _factors(seed, clients, COMPUTING, self.spread),
            8.0 * self.bytes_per_second * _factors(seed, clients, LINK, self.link_spread),
            np.full(len(clients), float(self.latency)),
        )


def _factors(seed: int, clients: Clients, what: int, spread: float) -> NDArray[np.float64]:
    """exp(spread z), one number at a time: how NumPy rounds depends on the machine."""
    drawn = uniform_each(seed, Purpose.SPEED, clients, k=what).tolist()
    return np.array([math.exp(spread * _NORMAL.inv_cdf(u)) for u in drawn])
