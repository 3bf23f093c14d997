"""Cohorts, hosting and minibatches: pure functions, and the same union for every number of ranks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiso_pl.federation.batches import draw_batch
from hiso_pl.federation.cohort import own_slots, resolve_hosting, sample_cohort

SEED = 20261120


def test_cohorts_are_the_ones_written_down() -> None:
    assert [sample_cohort(SEED, round, 8, 4) for round in range(3)] == [(1, 4, 5, 6), (0, 4, 5, 7), (0, 1, 3, 4)]
    assert sample_cohort(SEED, 1499, 100, 10) == (3, 16, 21, 32, 35, 36, 44, 45, 56, 96)


def test_a_full_cohort_is_everyone() -> None:
    assert sample_cohort(SEED, 3, 5, 5) == (0, 1, 2, 3, 4)


def test_clients_are_sampled_equally_often() -> None:
    rounds = 4000
    counts = Counter(client for round in range(rounds) for client in sample_cohort(SEED, round, 6, 2))
    expected = rounds / 3
    assert all(abs(counts[client] - expected) < 5 * np.sqrt(expected) for client in range(6))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_ranks_together_evaluate_every_slot_once(data: st.DataObject) -> None:
    seed, round, clients = (data.draw(st.integers(*limits)) for limits in ((0, 2**64 - 1), (0, 10**6), (1, 20)))
    size, world = (data.draw(st.integers(1, clients)) for _ in range(2))
    cohort = sample_cohort(seed, round, clients, size)
    hosting = resolve_hosting("auto", clients, world)
    own = [own_slots(hosting, cohort, round, rank, world) for rank in range(world)]
    assert sorted(slot for slots in own for slot in slots) == list(range(len(cohort)))
    loads = [len(slots) for slots in own]
    assert max(loads) - min(loads) <= 1
    if hosting == "fixed":
        assert all(cohort[slot] == rank for rank, slots in enumerate(own) for slot in slots)


def test_the_odd_slot_goes_round() -> None:
    carriers = [max(range(2), key=lambda rank: len(own_slots("dealt", (0, 1, 2), r, rank, 2))) for r in range(4)]
    assert carriers == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("hosting", "world", "resolved"),
    [("auto", 4, "fixed"), ("auto", 3, "dealt"), ("auto", 1, "dealt"), ("dealt", 4, "dealt"), ("fixed", 4, "fixed")],
)
def test_hosting_is_resolved(hosting: str, world: int, resolved: str) -> None:
    assert resolve_hosting(hosting, 4, world) == resolved


@pytest.mark.parametrize(
    ("hosting", "world", "message"),
    [
        ("auto", 5, "^5 ranks but only 4 clients: "),
        ("dealt", 9, "^9 ranks but only 4 clients: "),
        ("fixed", 3, "^hosting=fixed needs a rank for every client, but there are 3 ranks and 4 clients"),
        ("roaming", 4, "^hosting='roaming' must be one of auto, fixed, dealt$"),
    ],
)
def test_hosting_that_cannot_be_is_refused(hosting: str, world: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_hosting(hosting, 4, world)


def test_cohort_larger_than_the_clients_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^cohort=9 must be in \[1, clients=8\]$"):
        sample_cohort(SEED, 0, 8, 9)


def test_batches_are_the_ones_written_down() -> None:
    assert draw_batch(SEED, 3, 7, 1, 100, 8).tolist() == [22, 40, 42, 43, 66, 73, 74, 84]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 50), st.integers(0, 2000), st.integers(0, 9), st.integers(1, 300), st.integers(1, 64))
def test_a_batch_has_distinct_examples(client: int, round: int, k: int, examples: int, size: int) -> None:
    batch = draw_batch(SEED, client, round, k, examples, size)
    assert len(batch) == min(examples, size)
    assert np.all(np.diff(batch) > 0)
    assert batch[0] >= 0
    assert batch[-1] < examples
    assert np.array_equal(batch, draw_batch(SEED, client, round, k, examples, size))


def test_batches_are_drawn_afresh_for_each_client_round_and_local_step() -> None:
    places = [(client, round, k) for client in range(4) for round in range(4) for k in range(4)]
    batches = {tuple(draw_batch(SEED, *place, 10_000, 8)) for place in places}
    assert len(batches) == len(places)


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^client 2 owns examples=0, at least 1"):
        draw_batch(SEED, 2, 0, 0, 0, 8)
    with pytest.raises(ValueError, match=r"^batch_size=0 must be at least 1$"):
        draw_batch(SEED, 2, 0, 0, 5, 0)
