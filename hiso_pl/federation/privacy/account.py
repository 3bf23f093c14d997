r"""What releases of noised scalars cost: epsilon at a delta, by dp-accounting.

A client's P scalars of a round are one release of the Gaussian mechanism, whatever P; so are its tau P at the level of
clients. As every rank sees each noised slot, the account is a client's own: its epsilon is that of its own releases,
and nothing is gained by the cohort's size or by its being sampled, which is public. A noise multiplier is in units of
the sensitivity, whatever is adjacent, so that dp-accounting is asked for the sensitivity 1 that it has for add or
remove.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Accountant = Literal["pld", "rdp"]

STEP, COARSE = 1e-4, 1e-3
"""Steps by which privacy losses are counted, always upwards: dp-accounting's own, and one where it is only decided
whether there is too much, which takes a tenth of the time and tells a ten thousandth too much. They are in units of an
epsilon that is larger than 10, or for the coarse one smaller than 1."""
NARROW = 1.001
"""The noise found for an epsilon is at most this much more than would do."""
LEAST_NOISE, MOST_NOISE = 2.0**-7, 2.0**40
"""Noise multipliers that are tried."""


def check_installed(what: str) -> None:
    """Refuses what needs an account where there is nobody to keep it.

    Raises:
        ValueError: If dp-accounting is not installed.
    """
    if find_spec("dp_accounting") is None:
        raise ValueError(
            f"{what} needs dp-accounting for its account, which is not installed: pip install 'hiso_pl[privacy]'"
        )


def epsilon(
    noise_multiplier: float, releases: int, delta: float, rate: float = 1.0, accountant: Accountant = "pld"
) -> float:
    r"""The epsilon of a number of releases of the Poisson sampled Gaussian mechanism, each by the same noise.

    .. math::
        \tilde s_t = \sum_{j \in B_t} v_j + \mathcal N(0, (\sigma S)^2 I), \qquad P(j \in B_t) = q, \qquad
        t = 1 \dots \text{releases}

    With q = 1 what is hidden may be anything whose change moves the sum by at most S: a client, replaced by another.
    With q < 1 it is one more example or one less.

    Source: dp-accounting (Google's differential-privacy library), its accountants of privacy loss distributions and of
    Renyi's divergence; where nothing is sampled the exact privacy curve of the Gaussian mechanism that all releases
    make together (Balle and Wang 2018, arXiv 1805.06530, equation 6) in place of the former.

    Args:
        noise_multiplier: sigma, the noise's standard deviation in units of the sensitivity S.
        releases: Number of releases, each of which may depend on those before.
        delta: Delta.
        rate: q, the probability with which each example enters a release.
        accountant: ``pld`` for privacy loss distributions, which are tight; ``rdp`` for Renyi's divergence.

    Raises:
        ValueError: If a number cannot be, or dp-accounting is not installed.
    """
    if not 0.0 < noise_multiplier < math.inf:
        raise ValueError(f"noise_multiplier={noise_multiplier} must be finite and positive")
    if releases < 0:
        raise ValueError(f"releases={releases} must not be negative")
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta={delta} must be in (0, 1)")
    if not 0.0 < rate <= 1.0:
        raise ValueError(f"rate={rate} must be in (0, 1]")
    if accountant not in get_args(Accountant):
        raise ValueError(f"accountant={accountant!r} must be one of {', '.join(get_args(Accountant))}")
    check_installed("epsilon")
    return _epsilon(noise_multiplier, releases, delta, rate, accountant) if releases else 0.0


@lru_cache(maxsize=4096)
def _epsilon(
    noise: float, releases: int, delta: float, rate: float, accountant: Accountant, coarse: bool = False
) -> float:
    import dp_accounting
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    if accountant == "pld" and rate == 1.0:
        return float(dp_accounting.get_epsilon_gaussian(noise / math.sqrt(releases), delta))
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    spent = dp_accounting.SelfComposedDpEvent(event, releases)
    with _quiet():
        if accountant == "rdp":
            return float(RdpAccountant().compose(spent).get_epsilon(delta))
        about = _epsilon(noise, releases, delta, rate, "rdp")
        step = (COARSE * min(about, 1.0) if coarse else STEP) * max(about / 10.0, 1.0)
        return float(PLDAccountant(value_discretization_interval=step).compose(spent).get_epsilon(delta))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps to itself of which of Renyi's orders dp-accounting thinks better: the others do."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class Worst:
    """The clients whose epsilon may be the largest: no other one has at least their rate and at least their releases.

    Attributes:
        rates: Their q, ascending.
        releases: Their numbers of releases, descending.

    Args:
        rates: q of each client, shape ``[clients]``.
        releases: Number of its releases; those without any have no epsilon.
    """

    def __init__(self, rates: NDArray[np.float64], releases: NDArray[np.int64]) -> None:
        order = np.lexsort((-rates, -releases))
        rates, releases = rates[order], releases[order]
        before = np.maximum.accumulate(np.concatenate([[0.0], rates[:-1]])) if len(rates) else rates
        kept = (rates > before) & (releases > 0)
        self.rates, self.releases = rates[kept], releases[kept]

    def with_more(self, rates: NDArray[np.float64], releases: NDArray[np.int64]) -> Worst:
        """The same of these and further ones."""
        return Worst(np.concatenate([self.rates, rates]), np.concatenate([self.releases, releases]))

    def epsilon(self, noise_multiplier: float, delta: float, accountant: Accountant, coarse: bool = False) -> float:
        """The largest epsilon; where a ``coarse`` one will do, a little more.

        Privacy loss distributions, which take tenths of a second where there is sampling, are asked for those alone
        whom Renyi's divergence, never less, leaves in question.
        """
        pairs = list(zip(self.rates.tolist(), self.releases.tolist(), strict=True))
        most = [(epsilon(noise_multiplier, n, delta, q, "rdp"), q, n) for q, n in pairs]
        if accountant == "rdp" or not most:
            return max(most)[0] if most else 0.0
        found = 0.0
        for bound, q, n in sorted(most, reverse=True):
            if bound <= found:
                break
            found = max(found, _epsilon(noise_multiplier, n, delta, q, "pld", coarse))
        return found


def noise_for(target: float, worst: Worst, delta: float, accountant: Accountant) -> float:
    """The smallest noise multiplier, but for a thousandth, with which no epsilon exceeds the target.

    Args:
        target: The epsilon.
        worst: The releases that there are to be.
        delta: Delta.
        accountant: As :func:`epsilon` takes it.

    Raises:
        ValueError: If none will do.
    """
    high = 1.0
    while worst.epsilon(high, delta, accountant, coarse=True) > target:
        high *= 2.0
        if high > MOST_NOISE:
            raise ValueError(
                f"target_epsilon={target} at delta={delta} cannot be had by any noise: give more of either"
            )
    low = high / 2.0
    while low >= LEAST_NOISE and worst.epsilon(low, delta, accountant, coarse=True) <= target:
        high, low = low, low / 2.0
    while low >= LEAST_NOISE and high > low * NARROW:
        middle = math.sqrt(low * high)
        if worst.epsilon(middle, delta, accountant, coarse=True) > target:
            low = middle
        else:
            high = middle
    return high
