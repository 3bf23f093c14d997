"""The account: epsilon is dp-accounting's own, the worst client is found, noise is the least that will do."""

from __future__ import annotations

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from hiso_pl.federation.privacy import account
from hiso_pl.federation.privacy.account import Worst, epsilon, noise_for
from hiso_pl.federation.privacy.spent import Spent

SCHEDULES = [  # noise multiplier, releases, delta, rate
    (1.0, 1, 1e-5, 1.0),
    (4.0, 100, 1e-5, 1.0),
    (12.5, 1000, 1e-6, 1.0),
    (0.8, 3, 1e-3, 1.0),
    (1.5, 50, 1e-5, 0.01),
    (1.4, 400, 1e-5, 0.02),
    (2.0, 30, 1e-6, 0.5),
    (1.7, 20, 1e-4, 0.1),
    (3.0, 200, 1e-5, 0.25),
    (1.5, 1, 1e-2, 0.9),
]


def own(accountant: dp_accounting.PrivacyAccountant, noise: float, releases: int, delta: float, rate: float) -> float:
    """The epsilon of a schedule by an accountant of dp-accounting's, each release composed for itself."""
    event = dp_accounting.GaussianDpEvent(noise)
    if rate < 1.0:
        event = dp_accounting.PoissonSampledDpEvent(rate, event)
    return accountant.compose(event, releases).get_epsilon(delta)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_epsilon_is_dp_accountings_own(schedule):
    noise, releases, delta, rate = schedule
    assert epsilon(noise, releases, delta, rate, "rdp") == own(RdpAccountant(), *schedule)
    # without sampling it is the exact curve, which the distribution's steps of 1e-4 come as near to
    tolerance = {"abs": 1e-5} if rate == 1.0 else {"rel": 1e-12}
    assert epsilon(noise, releases, delta, rate) == pytest.approx(own(PLDAccountant(), *schedule), **tolerance)


def test_noise_in_units_of_the_sensitivity_is_what_dp_accounting_calls_half_of_it_where_one_is_replaced():
    """It takes a bound C for what it is told of, and two vectors of that norm may be 2 C apart."""
    replaced = PLDAccountant(dp_accounting.NeighboringRelation.REPLACE_ONE)
    assert epsilon(1.5, 4, 1e-5) == pytest.approx(own(replaced, 3.0, 4, 1e-5, 1.0), abs=1e-3)


def test_epsilon_grows_with_releases_and_rate_and_falls_with_noise_and_delta():
    at = {"noise_multiplier": 3.0, "releases": 20, "delta": 1e-5, "rate": 0.1}
    for accountant in ("pld", "rdp"):
        for name, values, sign in (
            *(("releases", (0, 1, 20, 400), 1), ("rate", (0.01, 0.1, 0.9, 1.0), 1)),
            *(("noise_multiplier", (2.0, 3.0, 9.0), -1), ("delta", (1e-8, 1e-5, 1e-3), -1)),
        ):
            found = [sign * epsilon(**{**at, name: value}, accountant=accountant) for value in values]
            assert found == sorted(found)
            assert len(set(found)) == len(found)
    assert epsilon(1.0, 0, 1e-5) == 0.0


def test_a_loss_of_thousands_takes_neither_minutes_nor_gigabytes():
    assert 400.0 < epsilon(0.2, 200, 1e-5, 0.1) < epsilon(0.2, 200, 1e-5, 0.1, "rdp") < 500.0
    assert 6e4 < epsilon(0.05, 300, 1e-5) < epsilon(0.05, 300, 1e-5, 1.0, "rdp") < 7e4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"noise_multiplier": 0.0}, "noise_multiplier=0.0 must be finite and positive"),
        ({"noise_multiplier": math.nan}, "noise_multiplier=nan must be finite and positive"),
        ({"releases": -1}, "releases=-1 must not be negative"),
        ({"delta": 0.0}, r"delta=0.0 must be in \(0, 1\)"),
        ({"delta": math.nan}, r"delta=nan must be in \(0, 1\)"),
        ({"rate": 0.0}, r"rate=0.0 must be in \(0, 1\]"),
        ({"rate": 1.1}, r"rate=1.1 must be in \(0, 1\]"),
        ({"accountant": "moments"}, "accountant='moments' must be one of pld, rdp"),
    ],
)
def test_what_cannot_be_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        epsilon(**{"noise_multiplier": 1.0, "releases": 1, "delta": 1e-5, **options})


def test_without_dp_accounting_a_line_names_the_extra(monkeypatch):
    monkeypatch.setattr(account, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs dp-accounting .* pip install 'hiso_pl\[privacy\]'"):
        epsilon(1.0, 1, 1e-5)


def test_the_worst_client_is_found_among_those_that_no_other_outdoes():
    rng = np.random.default_rng(3)
    rates, releases = rng.choice([0.01, 0.03, 0.1, 0.3], 40), rng.integers(0, 12, 40)
    worst = Worst(rates, releases)
    pairs = set(zip(rates.tolist(), releases.tolist(), strict=True))
    kept = {(q, n) for q, n in pairs if not any((q, n) != (r, k) and r >= q and k >= n for r, k in pairs)}
    assert set(zip(worst.rates.tolist(), worst.releases.tolist(), strict=True)) == kept
    for accountant in ("rdp", "pld"):
        assert worst.epsilon(4.0, 1e-5, accountant) == max(epsilon(4.0, n, 1e-5, q, accountant) for q, n in kept)
    fine, coarse = worst.epsilon(4.0, 1e-5, "pld"), worst.epsilon(4.0, 1e-5, "pld", coarse=True)
    assert fine <= coarse < 1.001 * fine
    assert Worst(rates[:0], releases[:0]).epsilon(1.0, 1e-5, "pld") == 0.0
    assert Worst(rates, np.zeros(40, dtype=np.int64)).epsilon(1.0, 1e-5, "rdp") == 0.0


def test_releases_are_counted_round_by_round_as_they_would_be_at_once():
    rng = np.random.default_rng(4)
    rates = rng.choice([0.05, 0.2, 1.0], 10)
    spent, counts = Spent(rates, 2.0, 1e-5, "rdp"), np.zeros(10, dtype=np.int64)
    for _ in range(8):
        clients = np.sort(rng.choice(10, 3, replace=False))
        ahead = spent.after(clients[None])
        spent.add(clients)
        counts[clients] += 1
        assert (spent.releases == counts).all()
        pairs = zip(rates.tolist(), counts.tolist(), strict=True)
        assert ahead == spent.epsilon() == max(epsilon(2.0, n, 1e-5, q, "rdp") for q, n in pairs)
        assert Spent(rates, 2.0, 1e-5, "rdp", counts).epsilon() == spent.epsilon()


def test_the_median_is_of_those_that_have_released_something():
    spent = Spent(np.ones(6), 3.0, 1e-5, "pld", np.array([0, 0, 0, 1, 5, 9]))
    assert spent.median() == epsilon(3.0, 5, 1e-5)
    assert Spent(np.ones(6), 3.0, 1e-5, "pld").median() == 0.0


@pytest.mark.parametrize(
    ("accountant", "target", "rates"),
    [("pld", 0.5, [1.0, 1.0]), ("pld", 8.0, [1.0, 1.0]), ("rdp", 2.0, [0.05, 0.2]), ("pld", 1.0, [0.05, 0.2])],
)
def test_the_noise_for_a_target_is_the_least_that_will_do(accountant, target, rates):
    worst = Worst(np.array(rates), np.array([60, 25]))
    noise = noise_for(target, worst, 1e-5, accountant)
    assert 0.99 * target < worst.epsilon(noise, 1e-5, accountant) <= target
    assert worst.epsilon(noise * 0.99, 1e-5, accountant) > target


def test_rounds_end_before_the_one_that_would_exceed_the_target():
    cohorts = np.array([[0, 1], [1, 2], [0, 2], [1, 2], [1, 0]])
    for releases in range(4):
        spent = Spent(np.ones(3), 4.0, 1e-5, "pld", np.array([0, releases, 0]))
        target = epsilon(4.0, 3, 1e-5)
        counts, expected = spent.releases.copy(), 0
        for cohort in cohorts:  # one at a time
            counts[cohort] += 1
            if counts.max() > 3:
                break
            expected += 1
        assert spent.rounds_within(target, cohorts) == expected
    assert Spent(np.ones(3), 4.0, 1e-5, "pld", np.array([9, 0, 0])).rounds_within(target, cohorts) == 0
    assert spent.rounds_within(target, cohorts[:0]) == 0
