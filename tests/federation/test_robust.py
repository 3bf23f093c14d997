"""Robust rules against plain loops of their definitions, and what hostile slots can do to them."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hiso_pl.federation import (
    CenteredClipping,
    Clip,
    GeometricMedian,
    Krum,
    Mean,
    Median,
    MultiKrum,
    NormClipping,
    Quantize,
    Sign,
    TrimmedMean,
)
from hiso_pl.federation.aggregation.robust import in_order, squares
from hiso_pl.zeroth_order import Aggregation, Method, RoundRecord, Slots, ZerothOrderOptimizer
from hiso_pl.zeroth_order.digest import digest

Vectors = list[list[float]]
Scalars = NDArray[np.float32]
COMPARING = (Median, TrimmedMean, Krum, MultiKrum, CenteredClipping, GeometricMedian)
RULES = (*COMPARING, NormClipping)
SHAPE = (2, 3)
LARGEST = float(np.finfo(np.float32).max)

# Definitions as plain loops over lists of floats, written from those of byzfl (github.com/LPD-EPFL/byzfl at 0393b66),
# each sum one after the other, as rules say: to the bit


def total(values: Iterable[float]) -> float:
    found = 0.0
    for value in values:  # sum() of Python carries what it rounds away
        found += value
    return found


def square(a: list[float]) -> float:
    return total(x * x for x in a)


def norm(a: list[float]) -> float:
    return math.sqrt(square(a))


def minus(a: list[float], b: list[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def mean(rows: Vectors) -> list[float]:
    return [total(column) / len(rows) for column in zip(*rows, strict=True)]


def median(rows: Vectors) -> list[float]:
    n, found = len(rows), []
    for column in zip(*rows, strict=True):
        ordered = sorted(column)
        found.append(ordered[n // 2] if n % 2 else (ordered[n // 2 - 1] + ordered[n // 2]) / 2)
    return found


def nearest(rows: Vectors, i: int, count: int) -> list[int]:
    return sorted(range(len(rows)), key=lambda j: (square(minus(rows[j], rows[i])), j))[:count]


def by_krum(rows: Vectors, f: int, count: int) -> list[float]:
    n = len(rows)
    far = [total(square(minus(rows[j], rows[i])) for j in nearest(rows, i, n - f)) for i in range(n)]
    best = sorted(range(n), key=lambda i: (far[i], i))[:count]
    return mean([rows[i] for i in sorted(best)])


def trimmed(rows: Vectors, f: int) -> list[float]:
    n = len(rows)
    return [total(sorted(column)[f : n - f]) / (n - 2 * f) for column in zip(*rows, strict=True)]


def clipped(rows: Vectors, centre: list[float], radius: float) -> list[float]:
    moves = []
    for row in rows:
        away = minus(row, centre)
        factor = radius / norm(away) if norm(away) > radius else 1.0
        moves.append([factor * x for x in away])
    return [a + b for a, b in zip(centre, mean(moves), strict=True)]


def middle_distance(rows: Vectors, centre: list[float]) -> float:
    return median([[norm(minus(row, centre))] for row in rows])[0]


def centred(rows: Vectors, radius: float, relative: bool, start: str, iterations: int) -> list[float]:
    centre = median(rows) if start == "median" else [0.0] * len(rows[0])
    for _ in range(iterations):
        centre = clipped(rows, centre, radius * middle_distance(rows, centre) if relative else radius)
    return centre


def weiszfeld(rows: Vectors, smoothing: float, iterations: int) -> list[float]:
    z = median(rows)
    nu = smoothing * middle_distance(rows, z)
    for _ in range(iterations if nu else 0):
        betas = [1.0 / max(nu, norm(minus(row, z))) for row in rows]
        whole = total(betas)
        z = [total(b * x for b, x in zip(betas, column, strict=True)) / whole for column in zip(*rows, strict=True)]
    return z


CASES: dict[str, tuple[Callable[..., Aggregation], Callable[[Vectors, int], list[float]]]] = {
    "median": (Median, lambda rows, f: median(rows)),
    "trimmed mean": (TrimmedMean, trimmed),
    "krum": (Krum, lambda rows, f: by_krum(rows, f, 1)),
    "multi-krum": (MultiKrum, lambda rows, f: by_krum(rows, f, len(rows) - f)),
    "multi-krum of two": (
        lambda f, mixing: MultiKrum(f, mixing, kept=2),
        lambda rows, f: by_krum(rows, f, 2),
    ),
    "centred clipping": (CenteredClipping, lambda rows, f: centred(rows, 1.0, True, "median", 3)),
    "centred clipping from zero": (
        lambda f, mixing: CenteredClipping(f, mixing, 0.7, relative=False, start="zero", iterations=2),
        lambda rows, f: centred(rows, 0.7, False, "zero", 2),
    ),
    "geometric median": (GeometricMedian, lambda rows, f: weiszfeld(rows, 0.1, 10)),
    "geometric median, smooth": (
        lambda f, mixing: GeometricMedian(f, mixing, 1.0, 2),
        lambda rows, f: weiszfeld(rows, 1.0, 2),
    ),
}


def drawn(m: int, kind: str, seed: int) -> Scalars:
    """Scalars of m slots: normal ones, whole numbers with many ties and zeros of either sign, or as large as can be."""
    generator = np.random.default_rng(seed)
    if kind == "tied":
        return generator.integers(-2, 3, (m, *SHAPE)).astype(np.float32) * np.float32(-1.0)
    values = generator.standard_normal((m, *SHAPE))
    return (np.clip(values * 2e38, -LARGEST, LARGEST) if kind == "huge" else values).astype(np.float32)


@pytest.mark.parametrize("mixing", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_rule_is_its_definition(name: str, mixing: bool) -> None:
    made, expected = CASES[name]
    for m, kind, out in itertools.product(range(3, 13), ("normal", "tied", "huge"), (0, 2)):
        n = m - out
        for f in range((n - 1) // 2 + 1):
            rule = made(f=f, mixing=mixing)
            if rule.least_present(m) > n:
                continue
            scalars, present = drawn(m, kind, seed=100 * m + f), np.ones(m, dtype=bool)
            scalars[[0, m // 2][:out]], present[[0, m // 2][:out]] = np.nan, False
            rows = [[float(x) for x in row.ravel()] for row in scalars[present]]
            if mixing:
                rows = [mean([rows[j] for j in sorted(nearest(rows, i, n - f))]) for i in range(n)]
            found = rule.combined(scalars, present, np.arange(1.0, m + 1))
            wanted = np.array(expected(rows, f)).reshape(SHAPE).astype(np.float32)
            assert np.isfinite(found).all()
            assert np.array_equal(found, wanted), f"{rule} of {n} {kind}"


def test_without_hostile_slots_rules_are_those_of_everyday() -> None:
    scalars, everyone = drawn(6, "normal", 1), np.ones(6, dtype=bool)
    plain = Mean()(scalars, everyone, None)
    assert np.array_equal(Median(0)(scalars, everyone, None), np.median(scalars.astype(float), axis=0).astype("f4"))
    for rule in (MultiKrum(0), NormClipping(0, bound=1e9), TrimmedMean(0, mixing=True)):
        assert np.array_equal(rule(scalars, everyone, None), plain)
    np.testing.assert_allclose(TrimmedMean(0)(scalars, everyone, None), plain, rtol=1e-6)
    for one in (rule(0) for rule in RULES):  # a slot alone gets its own back, or its direction
        assert np.array_equal(one(scalars, np.arange(6) == 4, None), scalars[4])


def test_the_geometric_median_has_the_smallest_sum_of_distances() -> None:
    def cost(point: NDArray[Any], rows: NDArray[Any]) -> float:
        return float(np.linalg.norm(rows - point, axis=1).sum())

    for seed in range(5):
        rows = drawn(9, "normal", seed).reshape(9, -1).astype(np.float64)
        point = GeometricMedian(4, smoothing=1e-6, iterations=300).of(rows)
        for step in np.eye(6) * 1e-3:
            assert cost(point, rows) <= min(cost(point + step, rows), cost(point - step, rows)) + 1e-9
        assert cost(GeometricMedian(4).of(rows), rows) <= cost(point, rows) * 1.002


def test_clipping_norms_is_centred_clipping_once_from_zero() -> None:
    scalars, everyone = drawn(7, "normal", 3), np.ones(7, dtype=bool)
    once = CenteredClipping(3, radius=0.8, start="zero", iterations=1)
    assert np.array_equal(NormClipping(3, 0.8)(scalars, everyone, None), once(scalars, everyone, None))


# What hostile slots can do


@pytest.mark.parametrize("mixing", [False, True])
@pytest.mark.parametrize("kind", RULES)
def test_f_hostile_slots_lead_no_rule_away_and_lead_the_mean_anywhere(kind: Any, mixing: bool) -> None:
    if kind is NormClipping and mixing:
        return
    for m, seed in itertools.product((3, 4, 5, 8, 11), range(3)):
        f, everyone = (m - 1) // 2, np.ones(m, dtype=bool)
        scalars = drawn(m, "normal", seed)
        hostile = np.random.default_rng(seed).permutation(m)[:f]
        honest = np.delete(scalars, hostile, axis=0)
        low, high = honest.min(axis=0), honest.max(axis=0)
        sent = ([1e30] * f, [-1e30] * f, [1e30 if i % 2 else -1e30 for i in range(f)], [LARGEST] * f, [2.0] * f)
        for values in sent:
            for slot, value in zip(hostile, values, strict=True):
                scalars[slot] = value
            rule = kind(f) if kind is NormClipping else kind(f, mixing)
            found = rule(scalars, everyone, None)
            if kind in (Median, TrimmedMean) and not mixing:
                assert (low <= found).all()
                assert (found <= high).all()
            # a few times what honest slots are apart, whatever was sent
            assert np.linalg.norm(found) <= 12 * np.linalg.norm(honest.reshape(m - f, -1), axis=1).max(), (kind, m)
        scalars[hostile] = 1e30
        assert not (Mean()(scalars, everyone, None) <= 1e3 * high).any()


def test_one_more_than_f_is_too_many() -> None:
    scalars, everyone = drawn(5, "normal", 0), np.ones(5, dtype=bool)
    scalars[[0, 2, 4]] = 1e30
    for kind in (Median, TrimmedMean, Krum, MultiKrum, GeometricMedian):
        assert np.abs(kind(2)(scalars, everyone, None)).max() > 1e28, kind


@pytest.mark.parametrize("kind", RULES)
def test_the_order_of_slots_decides_nothing_but_the_last_bit(kind: Any) -> None:
    scalars, everyone = drawn(8, "normal", 5), np.ones(8, dtype=bool)
    found = kind(3)(scalars, everyone, None)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(8)
        np.testing.assert_allclose(kind(3)(scalars[order], everyone, None), found, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", RULES)
def test_examples_are_not_asked_for_and_zeros_are_positive(kind: Any) -> None:
    scalars, everyone = drawn(5, "tied", 9), np.ones(5, dtype=bool)
    scalars[:, 0, 0], scalars[:3, 1, 1] = -0.0, np.float32(-1e-45)
    alone = kind(1)(scalars, everyone, None)
    assert not np.signbit(alone[alone == 0]).any()
    assert np.array_equal(alone, kind(1)(scalars, everyone, np.array([9.0, 0.0, np.nan, -1.0, 1e9])))
    assert np.array_equal(alone, kind(1)(np.where(scalars == 0, np.float32(0), scalars), everyone, None))


def test_sums_run_in_the_order_of_the_slots() -> None:
    for n, d in ((3, 1), (5, 1000), (1000, 7), (257, 64)):
        rows = np.random.default_rng(n).standard_normal((n, d)) * 10.0 ** np.arange(-n // 2, n // 2)[:n, None].clip(
            -9, 9
        )
        for laid in (rows, np.asfortranarray(rows)):
            total, square = [0.0] * d, []
            for row in rows.tolist():
                total = [a + b for a, b in zip(total, row, strict=True)]
                one = 0.0
                for x in row:
                    one += x * x
                square.append(one)
            assert in_order(laid).tolist() == total
            assert squares(laid).tolist() == square


def found_by(rule: Aggregation, m: int, own: bool = False) -> str:
    scalars = np.sin(np.arange(m * 6, dtype=np.float64) ** 2).reshape(m, *SHAPE).astype(np.float32)
    scalars[0] = 1e30
    found = (rule.side_by_side if own else rule.combined)(scalars, np.arange(m) != 2, None)
    return hashlib.sha256(found.astype("<f4").tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("mixing", [False, True])
@pytest.mark.parametrize("kind", COMPARING)
def test_rules_give_the_pinned_bits(pins: Any, kind: Any, mixing: bool) -> None:
    pins.hold(f"{kind.__name__} mixing={mixing}", found_by(kind(2, mixing), 9))


@pytest.mark.parametrize("own", [False, True])
def test_clipped_norms_give_the_pinned_bits(pins: Any, own: bool) -> None:
    pins.hold(f"NormClipping own={own}", found_by(NormClipping(2), 9, own))
    assert len(pins.table) == 14


# In rounds


def rounds(
    aggregation: Aggregation, broken: Mapping[int, float], count: int = 3, **options: Any
) -> tuple[ZerothOrderOptimizer, RoundRecord, Scalars]:
    """Rounds of five slots, the losses of some of which are multiplied; with what the last decided and was sent."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    batches = [torch.randn(6, 3) for _ in range(5)]
    optimizer = ZerothOrderOptimizer(
        model.named_parameters(), lr=0.01, aggregation=aggregation, backend="reference", **options
    )

    def loss(slot: int) -> Callable[[int], torch.Tensor]:
        return lambda k: (model(batches[slot]) - 1.0).square().mean() * broken.get(slot, 1.0)

    for _ in range(count):
        optimizer.step(losses=[loss(slot) for slot in range(5)], slots=Slots(5, tuple(range(5)), tuple(range(5))))
    assert optimizer.record is not None
    assert optimizer.report is not None
    assert optimizer.report.sent is not None
    return optimizer, optimizer.record, optimizer.report.sent


def test_slots_that_are_dropped_are_no_members_and_too_few_make_an_empty_round() -> None:
    nan = math.nan
    _, record, sent = rounds(Median(1), {1: nan, 3: nan})
    assert record.dropped == (1, 3)
    assert np.array_equal(record.scalars, Median(1)(sent, np.arange(5) % 2 == 0, None))
    assert rounds(Median(2), {})[1].dropped == ()
    for rule, out in ((Median(2), (1,)), (Krum(1), (0, 1, 4)), (MultiKrum(1, kept=4), (2,))):
        once, thrice = (rounds(rule, dict.fromkeys(out, nan), count) for count in (1, 3))
        assert once[1].empty
        assert thrice[1].empty
        assert not thrice[1].scalars.any()
        assert (digest(once[0]), thrice[0].round) == (digest(thrice[0]), 3)


@pytest.mark.parametrize("scale", [1e6, -1e25])
@pytest.mark.parametrize("kind", RULES)
def test_two_hostile_clients_of_five_move_a_round_about_as_much_as_honest_ones(kind: Any, scale: float) -> None:
    honest, attacked = rounds(kind(2), {}), rounds(kind(2), {0: scale, 4: scale})
    assert np.abs(attacked[1].scalars).max() < 20 * np.abs(honest[2]).max()


def test_norms_are_clipped_along_own_directions_slot_by_slot() -> None:
    for bound, relative, out in itertools.product((0.5, 2.0), (False, True), ((), (3,))):
        broken = {0: 1e20, **dict.fromkeys(out, math.nan)}
        options: dict[str, Any] = {"directions": "client", "num_directions": 3, "local_steps": 2, "local_lr": 0.0}
        _, record, sent = rounds(NormClipping(1, bound, relative), broken, 1, **options)
        assert record.scalars.shape == (2, 15)
        norms = {slot: norm(sent[slot].ravel().tolist()) for slot in range(5) if slot not in out}
        most = bound * (median([[x] for x in norms.values()])[0] if relative else 1.0)
        for slot in range(5):
            mine = record.scalars[:, 3 * slot : 3 * slot + 3]
            factor = min(1.0, most / norms[slot]) * 5 / len(norms) if slot in norms else 0.0
            np.testing.assert_allclose(mine, np.nan_to_num(sent[slot]).astype(float) * factor, rtol=1e-6)
        assert norm(record.scalars[:, :3].ravel().tolist()) == pytest.approx(most * 5 / len(norms), rel=1e-6)
    plain, unbound = (rounds(rule, {}, directions="client")[0] for rule in (Mean(), NormClipping(2, 1e9)))
    assert digest(plain) == digest(unbound)


# What cannot be, and what it costs


@pytest.mark.parametrize("kind", RULES)
def test_what_cannot_be_is_refused(kind: Any) -> None:
    for f in (-1, True, 1.5):
        with pytest.raises(ValueError, match=rf"f={f!r} must be an integer of at least 0"):
            kind(f)
    for f, cohort in ((1, 2), (2, 4), (10**9, 12)):
        with pytest.raises(
            ValueError, match=rf"aggregation={kind.__name__}\(f={f}.* needs {2 * f + 1} slots, a cohort"
        ):
            Method(aggregation=kind(f)).check_rounds(cohort, range(1))
        Method(aggregation=kind(f)).check_rounds(2 * f + 1, range(1))
    with pytest.raises(ValueError, match=r"needs 5 slots, 4 are present"):
        kind(2)(drawn(5, "normal", 0), np.arange(5) > 0, None)
    with pytest.raises(
        ValueError, match=rf"transform=Quantize.* learns .* aggregation={kind.__name__}.* keep no state"
    ):
        Method(aggregation=kind(), transform=Quantize(scale="shared"))
    if kind is NormClipping:
        assert Method(aggregation=kind(), directions="client").directions == "client"
    else:
        with pytest.raises(ValueError, match=r"must be 'shared': .*; Mean, WeightedMean and NormClipping do without"):
            Method(aggregation=kind(), directions="client")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: MultiKrum(kept=-1), "kept=-1 must be an integer of at least 0"),
        (lambda: Method(aggregation=MultiKrum(1, kept=4)).check_rounds(4, range(1)), "needs 5 slots, a cohort of 4"),
        (lambda: CenteredClipping(radius=0.0), "radius=0.0 must be finite and positive"),
        (lambda: CenteredClipping(radius=math.inf), "radius=inf must be"),
        (lambda: CenteredClipping(start="mean"), "start='mean' must be 'median' or 'zero'"),  # type: ignore[arg-type]
        (lambda: CenteredClipping(iterations=0), r"iterations=0 must be an integer in \[1, 1000\]"),
        (lambda: GeometricMedian(iterations=10**6), "iterations=1000000 must be"),
        (lambda: GeometricMedian(smoothing=0.0), r"smoothing=0.0 must be in \[1e-9, 1\]"),
        (lambda: NormClipping(bound=-1.0), "bound=-1.0 must be finite and positive"),
        (lambda: NormClipping(bound=math.nan), "bound=nan must be"),
    ],
)
def test_options_that_cannot_be(made: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made()


def test_what_comes_down_is_a_number_of_32_bits_whatever_goes_up() -> None:
    record = RoundRecord(0, 0.1, 1e-3, np.ones((1, 5), dtype=np.float32), 4)
    for kind, transform in itertools.product(RULES, (None, Clip(), Quantize(4), Sign(), Sign("none"))):
        method = Method(aggregation=kind(), transform=transform, num_directions=5)
        assert method.bits(4, 5).down == 160
        assert Method.bits_of(method.as_data(), record, method).down == 160
