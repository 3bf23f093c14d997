"""Promise 7 and the file format: the streams' vectors, moments and independence."""

import numpy as np
import pytest
import torch
from scipy import stats

from hiso_pl.zeroth_order.kernels import select
from hiso_pl.zeroth_order.philox import Draws, Purpose, last_word, philox4x32
from hiso_pl.zeroth_order.streams import Site, box_muller, check_matrix, counter_words, direction, factors

BACKENDS = ["reference", "numba", "torch"]
CPU = torch.device("cpu")
ONE = np.ones(1, dtype=np.float32)


def hexes(values):
    return " ".join(f"{int(v):08x}" for v in np.asarray(values).view(np.uint32).reshape(-1))


def drawn(backend, site, k, p, count):
    """u(r, k, p) by a backend's public pass: weight one on direction p, zero on those before it."""
    out = torch.empty(count)
    weights = np.zeros(p + 1, dtype=np.float32)
    weights[p] = 1.0
    select(backend, CPU).combine(out, site, k, weights)
    return out.numpy()


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", 2**64 - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            0x299F31D0 << 32 | 0xA4093822,
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, words):
    counter = np.array([int(w, 16) for w in counter.split()], dtype=np.uint32)
    assert hexes(philox4x32(counter, key)) == words


def test_integers_of_the_format():
    words = counter_words(np.arange(2), Site(20261120, "normal", 0, 0), 0, 0)
    assert hexes(words) == "6bc4ef19 10da5a39 07e23ae6 ff9df6af 761cd1a2 81b54ca2 52d9d1d2 b95ef319"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("site", "k", "p", "bits"),
    [
        (
            Site(20261120, "normal", 0, 0),
            0,
            0,
            "3f9a2d0d 3f075a7f 4028d867 bccb243e bf9f118d bd5588c8 be792820 bfbdba65",
        ),
        (
            Site(2**63 + 5, "normal", 3, 1499),
            2,
            4,
            "bfe11b16 bf8b32c0 c0050866 3eed4de1 bf75f24e 3ea78c26 bf511d71 3f96286e",
        ),
        *(
            (Site(20261120, "low_rank", 0, 0, 0, rank, 5), 0, 0, bits)
            for rank, bits in (
                (1, "bf05bae1 be639f82 3d8d361c bdd02ec0 bdddc3e3 bfe60b96 bf43c7f5 3e72ea34"),
                (2, "bf31b131 bed5ad40 40140434 bef7de80 3e942873 bf61d631 be6ae85f c022af90"),
                (8, "c03706d8 bf817dda 3fd5334d c059552d bfad3744 be6e31c7 bde901f4 bfdfaad8"),
            )
        ),
    ],
)
def test_normals_of_the_format(backend, site, k, p, bits):
    assert hexes(drawn(backend, site, k, p, 8)) == bits


@pytest.mark.parametrize("backend", BACKENDS)
def test_signs_of_the_format(backend):
    site = Site(20261120, "rademacher", 0, 0)
    signs = drawn(backend, site, 0, 0, 200)
    words = counter_words(np.arange(2), site, 0, 0).reshape(-1)
    expected = [-1.0 if int(words[e >> 5]) >> (e & 31) & 1 else 1.0 for e in range(200)]
    assert signs.tolist() == expected
    assert signs[:16].tolist() == [-1, 1, 1, -1, -1, 1, 1, 1, -1, -1, -1, -1, 1, -1, -1, -1]


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("distribution", ["normal", "rademacher", "low_rank"])
def test_backends_agree_on_a_million_elements(backend, distribution):
    site = Site.of(7, distribution, 2, 11, (1, 3001), 123456)
    count = (1 << 20) + 4099  # past the torch path's chunk, with a tail
    expected = direction(site, 3, 1, 0, count)
    assert np.array_equal(drawn(backend, site, 3, 1, count).view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("distribution", ["normal", "rademacher", "low_rank"])
def test_any_stretch_equals_the_same_stretch_of_the_whole(distribution):
    site = Site.of(1, distribution, 3, 0, (1, 7), 5)
    whole = direction(site, 0, 2, 0, 1000)
    for start, count in ((0, 1), (1, 3), (3, 127), (129, 512), (997, 3)):
        assert np.array_equal(direction(site, 0, 2, start, count), whole[start : start + count])


def test_extreme_words_give_finite_normals():
    corner = np.array([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFF7F, 0xFFFFFFFF], dtype=np.uint32)
    a, b = (x.reshape(-1) for x in np.meshgrid(corner, corner))
    for values in box_muller(a, b):
        assert np.isfinite(values).all()
        assert np.abs(values).max() < 7.0  # sqrt(2 * 32 * ln 2) = 6.66


def test_moments_and_distribution():
    u = direction(Site(3, "normal", 2, 9), 1, 0, 0, 1 << 20).astype(np.float64)
    n = len(u)
    for order, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((u**order).mean() - moment) < 5 * np.sqrt(variance / n)
    assert stats.kstest(u, "norm").pvalue > 1e-3
    signs = direction(Site(3, "rademacher", 2, 9), 1, 0, 0, 1 << 20).astype(np.float64)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(signs.mean()) < 5 / np.sqrt(n)


@pytest.mark.parametrize("distribution", ["normal", "rademacher"])
def test_streams_are_independent_of_each_other(distribution):
    n = 1 << 16
    site = Site(3, distribution, 2, 9)
    base = direction(site, 1, 1, 0, n)
    others = {
        "direction": direction(site, 1, 2, 0, n),
        "local step": direction(site, 2, 1, 0, n),
        "tensor": direction(site._replace(tensor=3), 1, 1, 0, n),
        "round": direction(site._replace(round=10), 1, 1, 0, n),
        "seed": direction(site._replace(seed=4), 1, 1, 0, n),
        "high word of the seed": direction(site._replace(seed=3 + 2**32), 1, 1, 0, n),
        "neighbour": np.roll(base, 1),
    }
    for what, other in others.items():
        assert abs(np.dot(base.astype(np.float64), other)) / n < 5 / np.sqrt(n), what


def test_a_direction_of_low_rank_is_the_product_of_its_factors():
    """By the definition, element by element in float64; a tensor of one dimension has a normal direction."""
    site = Site.of(5, "low_rank", 3, 2, (6, 2, 2), 9)
    factors = {
        purpose: np.array(
            [[normal_of(site, purpose, 8 * i + j, k=1, p=4) for j in range(3)] for i in range(count)], np.float64
        )
        for purpose, count in ((Purpose.ROWS, 6), (Purpose.COLUMNS, 4))
    }
    expected = factors[Purpose.ROWS] @ factors[Purpose.COLUMNS].T / np.sqrt(3.0)
    found = direction(site, 1, 4, 0, 24).reshape(6, 4)
    assert np.allclose(found, expected, rtol=0, atol=1e-6)
    assert np.linalg.matrix_rank(found.astype(np.float64), tol=1e-5) == 3
    vector = Site.of(5, "low_rank", 3, 2, (24,), 9)
    assert np.array_equal(direction(vector, 1, 4, 0, 24), direction(Site(5, "normal", 2, 9), 1, 4, 0, 24))


def normal_of(site, purpose, element, k, p):
    """The normal of an element index by its own counter, for a purpose."""
    counter = np.array([[element >> 2, site.tensor, site.round, purpose << 28 | k << 14 | p]], dtype=np.uint32)
    words = philox4x32(counter, site.seed)[0]
    first = 2 * (element >> 1 & 1)
    return box_muller(words[first : first + 1], words[first + 1 : first + 2])[element & 1][0]


@pytest.mark.parametrize("rank", [1, 2, 8])
def test_moments_of_low_rank(rank):
    """Mean 0, variance 1, no two elements correlated, E[W W^T] = columns I; fourth moment 3 + 6 / rank."""
    rows, columns, n = 4, 3, 6000
    site = Site.of(8, "low_rank", rank, 1, (rows, columns), 2)
    u = np.stack([direction(site, 0, p, 0, rows * columns) for p in range(n)]).astype(np.float64)
    kurtosis = 3 + 6 / rank
    assert np.abs(u.mean(axis=0)).max() < 5 / np.sqrt(n)
    covariance = u.T @ u / n
    # between elements of one row a product's variance is E[u^2 u'^2] < kurtosis
    assert np.abs(covariance - np.eye(rows * columns)).max() < 5 * np.sqrt(kurtosis / n)
    w = u.reshape(n, rows, columns)
    assert np.abs(np.einsum("nij,nkj->ik", w, w) / n - columns * np.eye(rows)).max() < 8 * np.sqrt(
        columns * kurtosis / n
    )
    assert abs((u**4).mean() - kurtosis) < 0.25 * kurtosis


def test_factors_are_independent_of_each_other():
    n = 1 << 15
    site = Site.of(3, "low_rank", 8, 2, (n, n), 9)
    base = factors(site, Purpose.ROWS, 1, 1, 0, n).reshape(-1)
    others = {
        "columns": factors(site, Purpose.COLUMNS, 1, 1, 0, n),
        "direction": factors(site, Purpose.ROWS, 1, 2, 0, n),
        "first direction": factors(site._replace(first=1), Purpose.ROWS, 1, 1, 0, n),
        "local step": factors(site, Purpose.ROWS, 2, 1, 0, n),
        "tensor": factors(site._replace(tensor=3), Purpose.ROWS, 1, 1, 0, n),
        "round": factors(site._replace(round=10), Purpose.ROWS, 1, 1, 0, n),
        "elements": direction(Site(3, "normal", 2, 9), 1, 1, 0, 8 * n),
        "next factor": np.roll(base, 1),
        "next row": np.roll(base, 8),
    }
    for what, other in others.items():
        assert abs(np.dot(base.astype(np.float64), other.reshape(-1))) / (8 * n) < 5 / np.sqrt(8 * n), what


def test_purposes_do_not_share_numbers():
    draws = {purpose: tuple(Draws(5, purpose).uint64(4).tolist()) for purpose in Purpose}
    assert len(set(draws.values())) == len(Purpose)


def test_draws_do_not_depend_on_how_they_are_asked_for():
    whole = Draws(9, Purpose.COHORT, round=3).uint64(11)
    pieces = Draws(9, Purpose.COHORT, round=3)
    assert np.array_equal(np.concatenate([pieces.uint64(c) for c in (1, 2, 5, 3)]), whole)


def test_samples_are_uniform_subsets():
    counts = np.zeros(6)
    for r in range(6000):
        sample = Draws(1, Purpose.COHORT, round=r).sample(6, 2)
        assert len(set(sample.tolist())) == 2
        counts[sample] += 1
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(("k", "p"), [(1 << 14, 0), (0, 1 << 14), (-1, 0)])
def test_words_beyond_their_bits_are_refused(k, p):
    with pytest.raises(ValueError, match="must be in"):
        last_word(Purpose.DIRECTIONS, k, p)


def test_elements_beyond_the_counter_are_refused():
    with pytest.raises(ValueError, match=r"2\*\*34"):
        direction(Site(0, "normal", 0, 0), 0, 0, (1 << 34) - 2, 4)
    assert len(direction(Site(0, "normal", 0, 0), 0, 0, (1 << 34) - 4, 4)) == 4


def test_rows_and_columns_beyond_the_counter_are_refused():
    check_matrix((1 << 31, 1, 2), "w")
    with pytest.raises(
        ValueError, match=r"tensor 'w' has 2147483649 rows; a direction of low rank has at most 2\*\*31"
    ):
        check_matrix(((1 << 31) + 1, 1), "w")
    with pytest.raises(ValueError, match=r"4294967296 columns"):
        check_matrix((1, 1 << 16, 1 << 16), "w")
