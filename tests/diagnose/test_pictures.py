"""What the pictures of a diagnosis show by tensor."""

from __future__ import annotations

import pandas as pd
import pytest

from hiso_pl.diagnose.pictures import ROWS, shares


def table(count: int, gradient: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "tensor": [f"layers.{i // 2}.{i}" for i in range(count)],
            "block": [f"layers.{i // 2}" for i in range(count)],
            "elements": [10] * count,
            "gradient_sq": gradient,
            "noise_sq": [1.0 + i for i in range(count)],
            "gauss_newton_trace": [float("nan")] * count,
        }
    )


def test_shares_are_of_the_whole_and_what_is_not_known_has_none():
    found = shares(table(2, [1.0, 3.0]))
    assert list(found.columns) == ["elements", "gradient_sq", "noise_sq"]
    assert list(found["gradient_sq"]) == [0.25, 0.75]


def test_a_square_that_noise_covers_has_no_shares():
    assert "gradient_sq" not in shares(table(2, [3.0, -1.0]))
    assert "gradient_sq" not in shares(table(2, [1.0, -3.0]))
    assert "gradient_sq" in shares(table(2, [3.0, -0.1]))


def test_of_many_tensors_blocks_have_bars_and_of_many_blocks_the_largest():
    assert len(shares(table(20, [1.0] * 20))) == 10
    found = shares(table(60, [1.0] * 60))
    assert len(found) == ROWS
    assert found.index[-1] == f"{30 - ROWS + 1} others"
    assert found["noise_sq"].sum() == pytest.approx(1.0)
