"""Aggregations and transforms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hiso_pl.federation import Clip, Mean, WeightedMean
from hiso_pl.zeroth_order import Departure, ZerothOrderOptimizer

SCALARS = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
EVERYONE = np.ones(5, dtype=bool)


def test_weighted_mean_is_the_formula_rounded_once() -> None:
    weights = np.array([3.0, 1.0, 7.0, 2.0, 5.0])
    total = np.zeros((2, 3))
    for weight, row in zip(weights, SCALARS, strict=True):
        total = total + weight * row.astype(np.float64)
    result = WeightedMean()(SCALARS, EVERYONE, weights)
    assert result.dtype == np.float32
    assert np.array_equal(result, (total / 18.0).astype(np.float32))


def test_weights_are_renormalised_over_those_present() -> None:
    broken = SCALARS.copy()
    broken[1] = np.nan
    present = EVERYONE.copy()
    present[1] = False
    weights = np.array([3.0, 100.0, 7.0, 2.0, 5.0])
    result = WeightedMean()(broken, present, weights)
    assert np.array_equal(result, WeightedMean()(SCALARS[present], EVERYONE[:4], weights[present]))


def test_one_client_alone_gets_its_own_scalars_back() -> None:
    present = np.arange(5) == 3
    for aggregation in (Mean(), WeightedMean()):
        assert np.array_equal(aggregation(SCALARS, present, np.full(5, 8.0)), SCALARS[3])


def test_equal_weights_are_the_plain_mean() -> None:
    weighted = WeightedMean()(SCALARS, EVERYONE, np.full(5, 4.0))
    np.testing.assert_allclose(weighted, Mean()(SCALARS, EVERYONE, np.full(5, 4.0)), rtol=1e-7)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, -2, 1, 1, 1], r"^weights\[1\]=-2\.0 must be finite and not negative$"),
        ([1, 1, np.nan, 1, 1], r"^weights\[2\]=nan must be"),
        ([0, 0, 0, 0, 0], r"^weights of the slots present are all 0\.0"),
    ],
)
def test_weights_that_cannot_be_are_refused(weights: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightedMean()(SCALARS, EVERYONE, np.array(weights, dtype=np.float64))


def test_without_weights_it_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match=r"aggregation=WeightedMean needs the examples of each client"):
        WeightedMean()(SCALARS, EVERYONE, None)
    model = torch.nn.Linear(2, 1)
    optimizer = ZerothOrderOptimizer(model.named_parameters(), aggregation=WeightedMean())
    with pytest.raises(ValueError, match="take Mean"):  # a plain loop knows no weights
        optimizer.step(lambda: model(torch.ones(1, 2)).sum())


def test_clip_bounds_scalars_and_leaves_what_is_no_number() -> None:
    scalars = np.array([[0.5, -3.0, np.nan, np.inf]], dtype=np.float32)
    sent = Clip(2.0)(scalars, Departure(seed=0, round=3, client=1, before=None))
    assert np.array_equal(sent, np.array([[0.5, -2.0, np.nan, 2.0]], np.float32), equal_nan=True)
    assert sent.dtype == np.float32
    with pytest.raises(ValueError, match="bound=0 must be finite and positive"):
        Clip(0)
