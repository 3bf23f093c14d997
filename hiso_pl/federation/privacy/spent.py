"""Every client's releases, what they have cost it, and how many rounds more there may be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hiso_pl.federation.privacy.account import Accountant, Worst, epsilon


class Spent:
    """The releases of a run's clients.

    Attributes:
        releases: Number of releases of each client, shape ``[clients]``.

    Args:
        rates: q of each client, shape ``[clients]``: the probability with which each of its examples enters a release.
        noise_multiplier: sigma of every release.
        delta: Delta.
        accountant: ``pld`` or ``rdp``.
        releases: Number of releases of each client so far; none if it is not given.
    """

    def __init__(
        self,
        rates: NDArray[np.float64],
        noise_multiplier: float,
        delta: float,
        accountant: Accountant,
        releases: NDArray[np.int64] | None = None,
    ) -> None:
        self.rates, self.noise_multiplier, self.delta, self.accountant = rates, noise_multiplier, delta, accountant
        self.releases = np.zeros(len(rates), dtype=np.int64) if releases is None else releases.copy()
        there = np.flatnonzero(self.releases)
        self._worst = Worst(rates[there], self.releases[there])

    def add(self, clients: Sequence[int] | NDArray[np.int64]) -> None:
        """Counts a release of each of some clients, at a cost that depends on their number alone."""
        there = np.asarray(clients, dtype=np.int64)
        self.releases[there] += 1
        self._worst = self._worst.with_more(self.rates[there], self.releases[there])

    def epsilon(self) -> float:
        """The largest epsilon of a client."""
        return self._worst.epsilon(self.noise_multiplier, self.delta, self.accountant)

    def median(self) -> float:
        r"""The epsilon of the client in the middle, of those that have released something.

        They are put in order by :math:`q \sqrt n`, which their epsilons follow as n grows (the central limit theorem of
        Gaussian differential privacy; Bu, Dong, Long and Su 2020, arXiv 1911.11607), and exactly where all q are equal.
        """
        there = np.flatnonzero(self.releases)
        if not len(there):
            return 0.0
        order = np.argsort(self.rates[there] * np.sqrt(self.releases[there]), kind="stable")
        middle = there[order[len(order) // 2]]
        n, q = int(self.releases[middle]), float(self.rates[middle])
        return epsilon(self.noise_multiplier, n, self.delta, q, self.accountant)

    def after(self, cohorts: NDArray[np.int64]) -> float:
        """The largest epsilon, or a little more, once more cohorts have released, as :meth:`rounds_within` has them."""
        releases = self.releases + np.bincount(cohorts[cohorts >= 0], minlength=len(self.rates))
        there = np.flatnonzero(releases)
        worst = Worst(self.rates[there], releases[there])
        return worst.epsilon(self.noise_multiplier, self.delta, self.accountant, coarse=True)

    def rounds_within(self, target: float, cohorts: NDArray[np.int64]) -> int:
        """How many of the coming rounds there may be until one would take a client beyond a target.

        Args:
            target: The epsilon.
            cohorts: The clients of each of them, -1 for those that do not answer, shape ``[rounds, m]``.
        """
        within, beyond = -1, len(cohorts) + 1
        if self.after(cohorts) <= target:
            return len(cohorts)
        while beyond - within > 1:
            middle = (within + beyond) // 2
            if self.after(cohorts[:middle]) <= target:
                within = middle
            else:
                beyond = middle
        return max(within, 0)
