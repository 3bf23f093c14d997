"""Means and intervals, against plain code and SciPy's."""

from __future__ import annotations

import math
from itertools import product
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from hiso_pl.report.statistics import SAMPLES, interval, pair, resamples

NUMBERS = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))


def quantile(samples: list[float], share: float) -> float:
    """The smallest value that at least so much of the samples do not exceed."""
    ordered = sorted(samples)
    return next(value for i, value in enumerate(ordered, 1) if i / len(ordered) >= share - 1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=4), st.integers(0, 2))
def test_an_interval_is_that_of_all_samples(values: list[float], missing: int) -> None:
    found = interval([*values, *[math.nan] * missing])
    assert found.seeds == len(values)
    assert found.mean == pytest.approx(fmean(values), abs=1e-9)
    if len(values) == 1:
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        return
    samples = [fmean(sample) for sample in product(values, repeat=len(values))]
    assert found.low == pytest.approx(quantile(samples, 0.025), abs=1e-6)
    assert found.high == pytest.approx(quantile(samples, 0.975), abs=1e-6)
    if len(values) < 4:
        assert (found.low, found.high) == pytest.approx((min(values), max(values)), abs=1e-6)


def test_an_interval_of_many_seeds_is_scipys_and_the_same_each_time() -> None:
    values = np.random.default_rng(5).normal(size=12)
    found = interval(values.tolist())
    options: dict[str, Any] = {"method": "percentile", "n_resamples": SAMPLES, "rng": np.random.default_rng(1)}
    theirs = bootstrap((values,), np.mean, **options).confidence_interval
    width = theirs.high - theirs.low
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.05 * width)
    assert interval(values.tolist()) == found
    assert resamples(6).shape == (6**6, 6)
    assert resamples(7).shape == (SAMPLES, 7)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0.5, 1e4).map(lambda value: round(value, 3))] * 2), min_size=2, max_size=4))
def test_differences_and_ratios_draw_seeds_together(pairs: list[tuple[float, float]]) -> None:
    found = pair(*zip(*pairs, strict=True))
    differences = [fmean(a - b for a, b in sample) for sample in product(pairs, repeat=len(pairs))]
    ratios = [fmean(a for a, _ in s) / fmean(b for _, b in s) for s in product(pairs, repeat=len(pairs))]
    for part, samples, mean in (
        (found.difference, differences, fmean(a - b for a, b in pairs)),
        (found.ratio, ratios, fmean(a for a, _ in pairs) / fmean(b for _, b in pairs)),
    ):
        assert part.mean == pytest.approx(mean, abs=1e-6)
        assert part.low == pytest.approx(quantile(samples, 0.025), abs=1e-6)
        assert part.high == pytest.approx(quantile(samples, 0.975), abs=1e-6)
        assert part.seeds == len(pairs)


def test_seeds_that_one_has_not_are_left_out_of_both_and_counted() -> None:
    nan = math.nan
    found = pair([100.0, nan, 50.0], [200.0, 25.0, nan])
    assert (found.difference.mean, found.ratio.mean, found.missed) == (-100.0, 0.5, 2)
    assert math.isnan(found.ratio.low)  # of one pair nothing is known beyond it
    none = pair([nan], [1.0])
    assert (none.difference.seeds, none.missed) == (0, 1)
    assert math.isnan(none.difference.mean)


def test_what_is_not_positive_has_no_ratio() -> None:
    found = pair([1.0, 2.0], [0.0, 1.0])
    assert found.difference.mean == 1.0
    assert math.isnan(found.ratio.mean)
