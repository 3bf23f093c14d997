"""The rule by which a rate is chosen, against plain code and case by case."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiso_pl.report.choice import best, edge, place
from hiso_pl.report.run_data import Aim

NAN = math.nan
ACCURACY = Aim("val/accuracy")
ROUNDS = Aim("val/accuracy", "rounds", (0.8,))


def row(
    best: float = 0.5, last: float | None = None, rounds: float = NAN, loss: float = 1.0, **other: Any
) -> dict[str, Any]:
    plain = {
        "complete": True,
        "stopped": False,
        "diverged": False,
        "best": best,
        "last": best if last is None else last,
    }
    return {**plain, "loss": loss, "rounds@0.8": rounds, "test": NAN, **other}


@st.composite
def some_rows(draw: st.DrawFn) -> dict[str, Any]:
    coarse = st.sampled_from([0.1, 0.5, 0.9, NAN])
    diverged = draw(st.booleans())
    return row(
        draw(coarse),
        draw(coarse),
        NAN if diverged else draw(st.sampled_from([25.0, 50.0, 75.0, NAN])),
        draw(st.sampled_from([0.5, 1.0, NAN])),
        diverged=diverged,
        complete=draw(st.booleans()),
        stopped=draw(st.booleans()),
        test=draw(coarse),
    )


def plain_best(rates: dict[float, list[dict[str, Any]]], aim: Aim) -> float | None:
    """The rule of DESIGN's section 6, word by word and slowly; sums are exact, so that equal means are."""
    left = {}
    for rate, rows in rates.items():
        ended = [found for found in rows if found["complete"] or found["stopped"]]
        losses = [found["loss"] for found in ended if not math.isnan(found["loss"])]
        loss = math.fsum(losses) / len(losses) if losses else math.inf
        if any(found["diverged"] for found in ended):
            loss = math.inf
        if aim.by == "loss":
            if loss < math.inf:
                left[rate] = (len(ended), -loss, -loss)
            continue
        name = "rounds@0.8" if aim.by == "rounds" else aim.by
        good = [found[name] for found in ended if not math.isnan(found[name])]
        if aim.by == "rounds":
            if good or loss < math.inf:
                left[rate] = (len(good), -math.fsum(good) / len(good) if good else -math.inf, len(ended), -loss)
        else:
            other = [found["last" if name == "best" else "best"] for found in ended]
            other = [value for value in other if not math.isnan(value)] or good
            if other:
                mean = math.fsum(good) / len(good) if good else -math.inf
                left[rate] = (len(good), mean, math.fsum(other) / len(other))
    top = max(left.values(), default=None)
    return next((rate for rate, found in left.items() if found == top), None)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from([0.1, 0.2, 0.4]), st.lists(some_rows(), min_size=1, max_size=3), min_size=1),
    st.sampled_from(["best", "last", "rounds", "loss"]),
)
def test_the_rule_is_that_of_plain_code(rates: dict[float, list[dict[str, Any]]], by: str) -> None:
    aim = replace(ROUNDS, by=by)
    assert best(rates, aim) == plain_best(rates, aim)
    blind = {rate: [found | {"test": 1.0} for found in rows] for rate, rows in rates.items()}
    assert best(blind, aim) == best(rates, aim)  # it does not look at the test


def test_the_best_or_the_last_value_chooses() -> None:
    found = {0.1: [row(0.7)], 0.2: [row(0.9, 0.2)]}
    assert [best(found, Aim("val/accuracy", by)) for by in ("best", "last")] == [0.2, 0.1]
    assert best({0.1: [row(0.7, 0.5)], 0.2: [row(0.7, 0.6)]}, ACCURACY) == 0.2
    assert best({0.1: [row(0.3)], 0.2: [row(0.5)]}, Aim("val/loss")) == 0.1
    assert best({0.1: [row(NAN)]}, ACCURACY) is None


def test_a_rate_at_which_a_seed_misses_loses_to_a_slower_one_at_which_none_does() -> None:
    found = {0.1: [row(rounds=25), row()], 0.2: [row(rounds=75), row(rounds=75)]}
    assert best(found, ROUNDS) == 0.2


def test_equal_rounds_are_decided_by_the_final_loss_which_can_choose_alone() -> None:
    found = {0.1: [row(rounds=25, loss=0.5)], 0.2: [row(rounds=25, loss=0.4)], 0.3: [row(rounds=50, loss=0.1)]}
    assert best(found, ROUNDS) == 0.2
    assert best(found, replace(ROUNDS, by="loss")) == 0.3
    lost = {rate: [one | {"rounds@0.8": NAN} for one in rows] for rate, rows in found.items()}
    assert best(lost, ROUNDS) == 0.3  # nobody is there
    searched = {0.1: [row(loss=0.5)] * 3, 0.3: [row(loss=0.1)]}
    assert best(searched, ROUNDS) == 0.1  # a search gave the other up


def test_a_run_that_diverged_for_good_counts_as_a_seed_that_misses_and_one_under_way_does_not_count() -> None:
    stopped = row(NAN, NAN, loss=NAN, complete=False, stopped=True, diverged=True)
    assert best({0.1: [row(rounds=75), row(rounds=75)], 0.2: [row(rounds=25), stopped]}, ROUNDS) == 0.1
    assert place([stopped], ROUNDS) == (0, math.inf, -1, math.inf)
    under_way = row(0.9, complete=False)
    assert best({0.1: [row(0.5)], 0.2: [under_way]}, ACCURACY) == 0.1
    assert best({0.2: [under_way]}, ACCURACY) is None


@pytest.mark.parametrize(
    ("rate", "rates", "found"),
    [
        (0.1, [0.1, 0.2], "lowest"),
        (0.2, [0.1, 0.2], "highest"),
        (0.2, [0.1, 0.2, 0.3], ""),
        (0.1, [0.1], ""),
        (None, [None], ""),
        (0.1, [0.1, None], ""),
    ],
)
def test_the_edge_of_a_grid(rate: float | None, rates: list[float | None], found: str) -> None:
    assert edge(rate, rates) == found


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric": "test/accuracy"}, "metric=test/accuracy must be one of validation"),
        ({"by": "first"}, "by=first must be one of best, last, rounds, loss"),
        ({"by": "rounds"}, "by=rounds needs targets"),
        ({"targets": (0.5, 0.5)}, "each of them once"),
        ({"targets": (NAN,)}, "finite"),
    ],
)
def test_aims_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Aim(**{"metric": "val/accuracy", **options})
