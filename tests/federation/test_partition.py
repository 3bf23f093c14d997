"""Partitions: complete, disjoint, the minimum met, and a pure function that never changes silently."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiso_pl.federation.partition import (
    IID,
    ByColumn,
    Dirichlet,
    LabelShards,
    Partition,
    Parts,
    label_counts,
    partition_fingerprint,
    quantile_bins,
)
from hiso_pl.federation.partition.base import MOVES
from hiso_pl.federation.partition.dirichlet import _largest_remainder, _log_gamma_variate, _shares
from hiso_pl.zeroth_order.philox import Draws, Purpose

SEED = 20261120
LABELS = np.arange(200) * 7 % 10 // 3  # 60, 60, 60 and 20 examples of labels 0 to 3
LENGTHS = np.arange(200) * 37 % 101 + np.arange(200) % 3
OWNERS = np.arange(200) ** 2 % 23  # 12 values, of 9 to 18 examples


def uniforms(seed: int):
    generator = np.random.default_rng(seed)
    return iter(generator.random, None)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Partition, np.ndarray, int, int]:
    clients = draw(st.integers(1, 12))
    minimum = draw(st.integers(0, 4))
    shards = draw(st.integers(1, 3))
    fewest = max(clients * minimum, clients * shards, 1)
    labels = draw(st.lists(st.integers(0, 5), min_size=fewest, max_size=fewest + 60))
    alpha = draw(st.sampled_from([1e-6, 1e-2, 0.3, 1.0, 7.5, 1e6]))
    by_length = Dirichlet(alpha, minimum, "length", draw(st.integers(1, 5)))
    every = [IID(minimum), Dirichlet(alpha, minimum), LabelShards(shards, minimum), by_length]
    if len(set(labels)) >= clients:
        every.append(ByColumn("owner", 0))
    partition = draw(st.sampled_from(every))
    return partition, np.array(labels, dtype=np.int64), clients, draw(st.integers(0, 2**64 - 1))


@settings(max_examples=150, deadline=None)
@given(cases())
def test_partition_is_complete_disjoint_and_meets_the_minimum(case) -> None:
    partition, labels, clients, seed = case
    before = labels.copy()
    parts = partition(labels, clients, seed)
    assert len(parts) == clients
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    assert all(np.all(np.diff(part) > 0) and part.dtype == np.int64 for part in parts)
    assert min(len(part) for part in parts) >= partition.minimum
    assert np.array_equal(labels, before)
    assert partition_fingerprint(parts) == partition_fingerprint(partition(labels, clients, seed))


@pytest.mark.parametrize(
    ("partition", "fingerprint", "sizes"),
    [
        (IID(), "cc0ca72e23dc042f32735b5cb2cc75880ebac0062e50763e65ed121257d93cfa", [34, 34, 33, 33, 33, 33]),
        (Dirichlet(), "6a71c4d5bcf70d04987202a333adce7b62ba0e7d374d25dcbddd77e67305e37e", [77, 14, 26, 13, 45, 25]),
        (Dirichlet(0.5), "e19aeac61a062859e6c27f9a363aee56aacc23ccc9bfb82b1d08a51a7d1f787e", [12, 8, 22, 14, 118, 26]),
        (LabelShards(), "bf34785192d1eb1d40e1e07f8110477d7b688b426bfc9f49ce7b110a1fb79d0e", [32, 33, 34, 34, 33, 34]),
        (
            Dirichlet(by="length"),
            "33035751c51cafa183c07b0f7cddb147d5032f9de319a0941361d21694a38080",
            [47, 17, 33, 26, 50, 27],
        ),
        (
            ByColumn("owner"),
            "17712d2f6f6c6d96c12e97e381819fa04df06b5cdb7158644a2b47b1e436077b",
            [27, 35, 34, 34, 35, 35],
        ),
    ],
    ids=["iid", "dirichlet-1", "dirichlet-0.5", "shards", "length", "column"],
)
def test_partition_is_the_one_written_down(partition: Partition, fingerprint: str, sizes: list[int]) -> None:
    values = {"label": LABELS, "length": LENGTHS, "column:owner": OWNERS}[partition.attribute]
    parts = partition(values, 6, SEED)
    assert [len(part) for part in parts] == sizes
    assert partition_fingerprint(parts) == fingerprint


def plainly_met(parts: list[np.ndarray], minimum: int, seed: int) -> list[np.ndarray]:
    """The minimum by its own words: one example at a time, from the client that owns the most."""
    draws = Draws(seed, Purpose.PARTITION, k=MOVES)
    held = [part.tolist() for part in parts]
    for client in range(len(held)):
        while len(held[client]) < minimum:
            richest = max(held, key=len)
            held[client].append(richest.pop(int(draws.uint64(1)[0]) * len(richest) >> 64))
    return [np.sort(np.array(part, dtype=np.int64)) for part in held]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=40), st.integers(0, 2**64 - 1), st.data())
def test_the_minimum_is_met_as_by_its_words(sizes, seed, data) -> None:
    minimum = data.draw(st.integers(0, sum(sizes) // len(sizes)))
    parts = np.split(np.random.default_rng(0).permutation(sum(sizes)), np.cumsum(sizes)[:-1])
    met = IID(minimum).meet_minimum(Parts.of([np.sort(part) for part in parts]), seed)
    assert list(map(list, met)) == list(map(list, plainly_met([np.sort(part) for part in parts], minimum, seed)))


@pytest.mark.timeout(100)
@pytest.mark.parametrize("partition", [Dirichlet(0.1), Dirichlet(0.1, by="length"), ByColumn("owner"), LabelShards()])
def test_many_clients_are_no_matter(partition: Partition) -> None:
    """60,000 of them took minutes when each example moved was searched for among all, and each client in all."""
    clients = 60_000
    values = np.random.default_rng(0).permutation(np.arange(10 * clients))
    parts = partition(values % (clients if isinstance(partition, ByColumn) else 2), clients, SEED)
    assert sum(map(len, parts)) == len(values)
    assert min(map(len, parts)) >= 1


def test_poor_clients_are_filled_from_the_richest() -> None:
    before = Dirichlet(0.05, minimum=0)(LABELS, 12, SEED)
    after = Dirichlet(0.05, minimum=9)(LABELS, 12, SEED)
    assert min(len(part) for part in before) < 9
    assert min(len(part) for part in after) == 9
    for old, new in zip(before, after, strict=True):
        assert set(old) <= set(new) or set(new) <= set(old)


def test_another_seed_is_another_partition() -> None:
    for partition in (IID(), Dirichlet(), LabelShards()):
        prints = {partition_fingerprint(partition(LABELS, 6, seed)) for seed in range(20)}
        assert len(prints) == 20


def test_alpha_sets_how_much_clients_differ() -> None:
    def unevenness(alpha: float) -> float:
        counts = label_counts(Dirichlet(alpha, minimum=0)(np.arange(4000) % 4, 10, SEED), np.arange(4000) % 4, 4)
        return float(counts.std())

    assert unevenness(0.1) > unevenness(1.0) > unevenness(100.0)
    assert unevenness(1e6) < 1.0


def test_label_shards_show_a_client_few_labels() -> None:
    labels = np.arange(1000) % 10
    counts = label_counts(LabelShards(2)(labels, 10, SEED), labels, 10)
    assert ((counts > 0).sum(axis=1) <= 2).all()
    assert (counts.sum(axis=1) == 100).all()


def test_alpha_by_length_sets_how_much_the_lengths_of_clients_differ() -> None:
    lengths = np.arange(4000) * 7919 % 512

    def unevenness(alpha: float) -> float:
        parts = Dirichlet(alpha, minimum=1, by="length")(lengths, 10, SEED)
        return float(np.std([lengths[part].mean() for part in parts]))

    assert unevenness(0.1) > 2 * unevenness(1.0) > 4 * unevenness(100.0)


def test_groups_by_length_are_those_of_labels() -> None:
    """What decides is the bin alone, and a bin is divided as a label is."""
    by_label = Dirichlet(0.7)(quantile_bins(LENGTHS, 5), 6, SEED)
    by_length = Dirichlet(0.7, by="length", bins=5)(LENGTHS, 6, SEED)
    assert partition_fingerprint(by_length) == partition_fingerprint(by_label)


def test_quantile_bins_are_of_like_size_and_keep_equal_numbers_together() -> None:
    assert quantile_bins(np.array([30, 10, 20, 40]), 2).tolist() == [1, 0, 0, 1]
    assert np.bincount(quantile_bins(np.arange(103)[::-1], 10)).tolist() == [11, 10, 10, 11, 10, 10, 11, 10, 10, 10]
    assert quantile_bins(np.array([5, 5, 5, 5, 5, 5, 7, 8]), 4).tolist() == [0, 0, 0, 0, 0, 0, 3, 3]
    assert quantile_bins(np.full(9, 4), 3).tolist() == [0] * 9
    assert quantile_bins(np.array([2, 1]), 10).tolist() == [5, 0]
    assert quantile_bins(np.empty(0, dtype=np.int64), 10).tolist() == []


def test_natural_clients_are_the_values_in_sorted_order() -> None:
    values = np.array([7, 3, 7, 12, 3, 7])
    for seed in (0, SEED):
        assert [part.tolist() for part in ByColumn("author")(values, 3, seed)] == [[1, 4], [0, 2, 5], [3]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-3, 12), min_size=1, max_size=80), st.integers(1, 6), st.integers(0, 2**64 - 1))
def test_whole_values_are_dealt_the_largest_to_the_emptiest(owners: list[int], clients: int, seed: int) -> None:
    values = np.array(owners)
    sizes = dict(zip(*map(np.ndarray.tolist, np.unique(values, return_counts=True)), strict=True))
    if len(sizes) <= clients:
        return
    parts = ByColumn("author")(values, clients, seed)
    held = [{int(v) for v in values[part]} for part in parts]
    assert sum(map(len, held)) == len(sizes)  # no value is split
    # sizes by the rule itself, where it does not matter which of equals comes first
    loads = [0] * clients
    for size in sorted(sizes.values(), reverse=True):
        loads[loads.index(min(loads))] += size
    assert sorted(len(part) for part in parts) == sorted(loads)


def test_who_gets_which_values_is_drawn() -> None:
    parts = [[tuple(part) for part in ByColumn("author")(np.arange(8) // 2, 3, seed)] for seed in range(40)]
    assert len({part[0] for part in parts}) > 3  # equals come in a drawn order
    lopsided = [ByColumn("author")(np.array([0] * 9 + [1, 1, 2]), 2, seed) for seed in range(40)]
    assert {len(part[0]) for part in lopsided} == {3, 9}  # and no client is the first by its number


def test_label_counts_count() -> None:
    parts = [np.array([0, 3]), np.array([1, 2, 4])]
    assert label_counts(parts, np.array([0, 2, 2, 0, 1]), 4).tolist() == [[2, 0, 0, 0], [0, 1, 2, 0]]


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_gamma_variates_have_the_mean_and_variance_of_their_law(alpha: float) -> None:
    source = uniforms(1)
    variates = np.exp([_log_gamma_variate(alpha, source) for _ in range(20_000)])
    error = 5 / np.sqrt(20_000)
    assert abs(variates.mean() - alpha) < error * np.sqrt(alpha)
    # Var(sample variance) = (mu4 - var^2) / n, and a gamma law of shape a has mu4 = 3 a^2 + 6 a.
    assert abs(variates.var() - alpha) < error * np.sqrt(2 * alpha**2 + 6 * alpha)


def test_shares_survive_an_alpha_whose_variates_underflow() -> None:
    shares = _shares(1e-6, 50, uniforms(2))
    assert sum(shares) == pytest.approx(1.0)
    assert max(shares) > 0.99


def test_largest_remainder_adds_up_and_favours_the_lower_client_in_a_tie() -> None:
    assert _largest_remainder(np.array([0.25, 0.25, 0.5]), 2).tolist() == [1, 0, 1]
    assert _largest_remainder(np.array([0.1, 0.6, 0.3]), 4).tolist() == [1, 2, 1]
    assert _largest_remainder(np.array([1.0, 0.0]), 7).tolist() == [7, 0]


def test_fingerprint_tells_where_one_client_ends() -> None:
    cuts = [[[0, 1], [2]], [[0], [1, 2]], [[0, 1, 2]], [[0, 1, 2], []]]
    prints = [partition_fingerprint([np.array(part, dtype=np.int64) for part in cut]) for cut in cuts]
    assert all(one != other for one, other in itertools.combinations(prints, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IID(minimum=-1), r"^minimum=-1 must be at least 0$"),
        (lambda: Dirichlet(alpha=0.0), r"^alpha=0\.0 must be positive"),
        (lambda: Dirichlet(alpha=float("nan")), r"^alpha=nan must be positive"),
        (lambda: LabelShards(shards=0), r"^shards=0 must be at least 1$"),
        (lambda: IID()(LABELS, 0, SEED), r"^clients=0 must be at least 1$"),
        (lambda: IID(minimum=50)(LABELS, 6, SEED), r"^minimum=50 .*clients=6 needs 300 training.*only 200$"),
        (lambda: LabelShards(shards=50)(LABELS, 6, SEED), r"^shards=50 .*clients=6 needs 300 training.*only 200$"),
        (lambda: IID()(LABELS[:, None], 6, SEED), r"^values of shape \[200, 1\] must have one dimension$"),
        (lambda: Dirichlet(by="size"), r"^by='size' must be one of label, length$"),
        (lambda: Dirichlet(bins=0), r"^bins=0 must be at least 1$"),
        (lambda: ByColumn(""), r"^column='' must be the name of a column$"),
        (lambda: ByColumn("who")(LABELS, 6, SEED), r"^clients=6 must be at most 4, .* column='who' among the training"),
        (
            lambda: ByColumn("who", 21)(LABELS, 4, SEED),
            r"^minimum=21 must be at most 20, the examples of client 3: none",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
