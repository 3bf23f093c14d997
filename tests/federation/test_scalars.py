"""What clients send in place of their scalars: few bits, signs, clipped ones; against plain Python and by hand."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest

from hiso_pl.federation import Clip, MajorityVote, Mean, Quantize, Sign, WeightedMean
from hiso_pl.zeroth_order import Departure, Method, RoundRecord
from hiso_pl.zeroth_order.philox import Draws, Purpose, uniforms
from hiso_pl.zeroth_order.transform import Transform

SCALARS = np.array([[0.5, -3.0, 1e-3, 0.0], [2.25, 0.7, -0.1, -1.0]], dtype=np.float32)
EVERYONE = np.ones(3, dtype=bool)


def departure(round: int = 3, client: int = 2, **state: float) -> Departure:
    arrays = {name: np.array([value], np.float32) for name, value in state.items()}
    return Departure(seed=11, round=round, client=client, before=None, state=arrays)


def bfloat16_not_below(value: float) -> float:
    """The smallest number of 8 binary digits that is not below a positive one, by its definition."""
    mantissa, exponent = math.frexp(struct.unpack("<f", struct.pack("<f", value))[0])
    return math.ldexp(math.ceil(mantissa * 256), exponent - 8)


def quantized(scalars: np.ndarray, bits: int, scale: float, round: int = 3, client: int = 2) -> np.ndarray:
    """Number by number: the neighbours of g among the levels, and the upper one with the probability that is fair."""
    levels = [scale * (2 * j - (2**bits - 1)) / (2**bits - 1) for j in range(2**bits)]
    found = np.zeros_like(scalars)
    for k, row in enumerate(scalars.tolist()):
        for p, g in enumerate(row):
            g = min(max(g, levels[0]), levels[-1])
            upper = next(j for j in range(1, 2**bits) if levels[j] >= g or j == 2**bits - 1)
            share = (g - levels[upper - 1]) / (levels[upper] - levels[upper - 1])
            (v,) = Draws(11, Purpose.ROUNDING, owner=client, round=round, k=k, p=p).uniform(1)
            found[k, p] = levels[upper] if v < share else levels[upper - 1]
    return found


# Quantize


@pytest.mark.parametrize("bits", [2, 3, 8, 12])
def test_few_bits_are_the_neighbours_chosen_by_draws_of_their_own(bits: int) -> None:
    sent = Quantize(bits)(SCALARS, departure())
    np.testing.assert_allclose(sent, quantized(SCALARS, bits, bfloat16_not_below(3.0)), rtol=1e-6)
    shared = Quantize(bits, scale="shared")(SCALARS, departure(scale=0.8))  # cuts
    np.testing.assert_allclose(shared, quantized(SCALARS, bits, float(np.float32(0.8))), rtol=1e-6)
    assert sent.dtype == shared.dtype == np.float32
    assert np.abs(shared).max() == np.float32(0.8)


def test_the_bits_of_what_is_sent_are_pinned() -> None:
    """A client rounds by the stream: these draws are for ever, as a resumed run has to round alike."""
    words = [f"{word:08x}" for word in Quantize(3)(SCALARS, departure()).view(np.uint32).ravel()]
    assert words == PINNED


PINNED = ["3edb6db7", "c0400000", "3edb6db7", "3edb6db7", "40092492", "3fa49249", "bedb6db7", "bfa49249"]


@pytest.mark.parametrize(("bits", "scale"), [(2, "client"), (2, "shared"), (4, "client"), (16, "client")])
def test_rounding_is_fair(bits: int, scale: str) -> None:
    transform, rounds = Quantize(bits, scale=scale), 4000  # type: ignore[arg-type]
    scalars = np.clip(SCALARS, -2.5, 2.5)
    sent = np.stack([transform(scalars, departure(round=r, scale=3.0)) for r in range(rounds)])
    step = 6.0 / (2**bits - 1)
    error = np.abs(sent.mean(axis=0, dtype=np.float64) - scalars)
    assert (error < 4.5 * step / 2 / math.sqrt(rounds) + 1e-7).all()  # 4.5 deviations of the largest there can be
    assert (np.abs(sent - scalars) <= step * 1.01).all()


def test_draws_are_by_seed_round_client_step_and_direction() -> None:
    found = uniforms(11, Purpose.ROUNDING, 2, 3, (3, 5))
    for k in range(3):
        for p in range(5):
            assert found[k, p] == Draws(11, Purpose.ROUNDING, owner=2, round=3, k=k, p=p).uniform(1)[0]
    others = [uniforms(*a, (3, 5)) for a in ((12, Purpose.ROUNDING, 2, 3), (11, Purpose.ROUNDING, 1, 3))]
    others += [uniforms(11, Purpose.ROUNDING, 2, 4, (3, 5)), uniforms(11, Purpose.NOISE, 2, 3, (3, 5))]
    assert len({a.tobytes() for a in (found, *others)}) == 5
    with pytest.raises(ValueError, match="direction p="):
        uniforms(0, Purpose.ROUNDING, 0, 0, (1, 1 << 14 | 1))


@pytest.mark.parametrize("transform", [Quantize(2), Quantize(16), Sign(), Clip(by="norm")], ids=repr)
@pytest.mark.parametrize("size", [1e30, 3.4e38, 1e-38, 1e-45, 0.0])
def test_no_size_of_scalars_is_too_large_or_small(transform: Transform, size: float) -> None:
    scalars = np.float32(size) * np.array([[1.0, -0.5, 0.25]], np.float32)
    sent = transform.leaving(scalars, departure())
    assert np.isfinite(sent).all()
    assert sent.any() == (size > 0.0) or size < 1e-40
    assert (1 << 31) not in sent.view(np.uint32)  # zeros are +0.0
    if size in (1e30, 1e-38) and not isinstance(transform, Clip):
        assert np.abs(sent).max() <= size * 1.01


def test_a_client_with_bad_scalars_sends_nothing_of_them() -> None:
    """A clip would make infinity finite, a sign would hide what is no number: the slot is to be dropped."""
    for bad in (np.nan, np.inf, -np.inf):
        scalars = SCALARS.copy()
        scalars[0, 1] = bad
        for transform in (Quantize(4), Quantize(4, scale="shared"), Sign(), Sign("none"), Clip(1.0), Clip(1.0, "norm")):
            assert np.isnan(transform.leaving(scalars, departure(scale=1.0))).all()


# The shared scale


def advanced(transform: Quantize, scale: float, scalars: list[float], averaged: int = 1) -> float:
    state = {"scale": np.array([scale], np.float32)}
    record = RoundRecord(0, 0.1, 1e-3, np.array([scalars], np.float32), cohort=8)
    transform.advance(state, record, averaged)
    return float(state["scale"][0])


def test_the_shared_scale_follows_the_equation() -> None:
    transform = Quantize(3, scale="shared", nu=0.25, cut=2.5, floor=1e-3)
    values, scale, n = [0.5, -0.25, 1.0], 0.75, 4
    v = 0.75 * (scale / 2.5) ** 2 + 0.25 * (n * sum(g * g for g in values) / 3 - (scale / 7) ** 2)
    assert advanced(transform, scale, values, n) == pytest.approx(2.5 * math.sqrt(v), rel=1e-6)
    assert Quantize(scale="shared", start=0.5).initial()["scale"].tolist() == [0.5]
    assert Quantize().initial() == {}
    for bits, cut in ((2, 2.0), (4, 2.5), (8, 4.5)):
        here, there = (Quantize(bits, scale="shared", cut=c) for c in (0.0, cut))
        assert advanced(here, 0.3, values) == advanced(there, 0.3, values)


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("size", [1e-4, 1.0, 300.0])
def test_the_shared_scale_finds_the_size_of_the_scalars(bits: int, size: float) -> None:
    """From its start, whether that is too small or too large, whatever the bits; and down to its floor at zero."""
    transform = Quantize(bits, scale="shared", floor=1e-5)
    rng, state = np.random.default_rng(bits), transform.initial()
    for r in range(400):
        g = (size * rng.standard_normal((1, 20))).astype(np.float32)
        sent = transform(g, departure(round=r, scale=float(state["scale"][0])))
        transform.advance(state, RoundRecord(r, 0.1, 1e-3, sent, cohort=1), 1)
    assert 1.4 < state["scale"][0] / size < 1.1 * max(2.0, (bits + 1) / 2)
    for r in range(900):
        sent = transform(np.zeros((1, 20), np.float32), departure(round=r, scale=float(state["scale"][0])))
        transform.advance(state, RoundRecord(r, 0.1, 1e-3, sent, cohort=1), 1)
    assert state["scale"][0] == np.float32(1e-5)


def test_a_shared_scale_stays_finite() -> None:
    transform, largest = Quantize(8, scale="shared"), float(np.finfo(np.float32).max)
    assert advanced(transform, largest, [largest, -largest], 100) == largest
    assert advanced(transform, 1e-6, [0.0, 0.0]) == pytest.approx(1e-6)


# Signs


def test_signs_have_the_mean_size_and_zero_is_positive() -> None:
    scalars = np.array([[0.5, -3.0, 0.0, -0.0, -1e-45]], np.float32)
    size = bfloat16_not_below(3.5 / 5)
    assert Sign()(scalars, departure()).tolist() == [[size, -size, size, size, -size]]
    assert Sign("none")(scalars, departure()).tolist() == [[1.0, -1.0, 1.0, 1.0, -1.0]]


def test_a_vote_counts_those_present_and_a_tie_gives_nothing() -> None:
    votes = np.array([[[1, 1, -1, 1]], [[1, -1, -1, -1]], [[-1, 1, -1, np.nan]]], np.float32)
    assert MajorityVote()(np.nan_to_num(votes, nan=1.0), EVERYONE, None).tolist() == [[1.0, 1.0, -1.0, 1.0]]
    present = np.array([True, True, False])
    found = MajorityVote().combined(votes, present, np.array([100.0, 1.0, 1.0]))  # examples are no votes
    assert found.tolist() == [[1.0, 0.0, -1.0, 0.0]]
    assert not np.signbit(found).any() or found.min() == -1.0


@pytest.mark.parametrize("transform", [None, Clip(), Quantize(2), Sign()], ids=repr)
def test_a_vote_is_of_signs_alone(transform: Transform | None) -> None:
    said = "null" if transform is None else transform.__class__.__name__
    with pytest.raises(ValueError, match=rf"MajorityVote needs signs alone: transform={said}.* must be Sign\(scale="):
        Method(transform=transform, aggregation=MajorityVote())
    with pytest.raises(ValueError, match=r"compares slots, so directions='client' must be 'shared'"):
        Method(transform=Sign("none"), aggregation=MajorityVote(), directions="client")


# Clip


def test_a_clip_by_the_norm_keeps_proportions() -> None:
    sent = Clip(2.0, by="norm")(SCALARS, departure())
    norm = math.sqrt(sum(g * g for g in SCALARS.astype(float).ravel()))
    np.testing.assert_allclose(sent, SCALARS * (2.0 / norm), rtol=1e-6)
    assert Clip(norm * 1.01, by="norm")(SCALARS, departure()) is SCALARS


# What cannot be


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *((lambda b=b: Quantize(b), rf"^bits={b!r} must be an integer in \[2, 16\]; one bit") for b in (0, 1, 17, 1.5)),
        (lambda: Quantize(True), r"^bits=True must be an integer"),
        (lambda: Quantize(8, "own"), "^scale='own' must be 'client' or 'shared'$"),  # type: ignore[arg-type]
        (lambda: Quantize(8, "shared", start=0.0), "^start=0.0 must be finite and positive$"),
        (lambda: Quantize(8, "shared", floor=0.0), "^floor=0.0 must be finite and positive$"),
        (lambda: Quantize(8, "shared", floor=math.inf), "^floor=inf must be finite"),
        (lambda: Quantize(8, "shared", nu=1.5), r"^nu=1.5 must be in \[0, 1\]$"),
        (lambda: Quantize(8, "shared", cut=0.5), "^cut=0.5 must be at least 1, or 0"),
        (lambda: Quantize(8, floor=1e-3), "are of a shared scale: scale='client' must be 'shared'$"),
        (lambda: Sign("shared"), "^scale='shared' must be 'client' or 'none'$"),  # type: ignore[arg-type]
        (lambda: Clip(1.0, "slot"), "^by='slot' must be 'scalar' or 'norm'$"),  # type: ignore[arg-type]
    ],
)
def test_options_that_cannot_be_are_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()


# Bits, by hand: tau = 2, P = 5, a cohort of 6


@pytest.mark.parametrize(
    ("options", "up", "down"),
    [
        ({}, 320, 320),
        ({"transform": Clip()}, 320, 320),
        ({"transform": Quantize(4)}, 4 * 10 + 16, 320),
        ({"transform": Quantize(4, scale="shared")}, 40, 10 * (4 + 3)),
        ({"transform": Quantize(4, scale="shared"), "aggregation": WeightedMean()}, 40, 320),
        ({"transform": Quantize(4), "directions": "client"}, 56, 6 * 56),
        ({"transform": Quantize(4, scale="shared"), "directions": "client"}, 40, 240),
        ({"transform": Sign()}, 26, 320),
        ({"transform": Sign("none")}, 10, 10 * (1 + 3)),
        ({"transform": Sign("none"), "aggregation": MajorityVote()}, 10, 20),
        ({"directions": "client"}, 320, 6 * 320),
    ],
)
def test_what_a_round_costs(options: dict, up: int, down: int) -> None:
    method = Method(local_steps=2, **options)
    assert method.bits(6, 5)[:2] == (up, down)
    # and by a file alone, where no more is said than that what is usual does not hold
    scalars = np.zeros((2, 30 if options.get("directions") == "client" else 5), np.float32)
    assert Method.bits_of(method.as_data(), RoundRecord(0, 0.1, 1e-3, scalars, 6))[:2] == (up, down)
    usual = isinstance(options.get("transform", Clip()), Clip)
    assert ("counted_by_parts" in method.as_data()) is not usual


def test_a_vote_of_an_odd_cohort_is_one_bit_and_a_sum_of_one_is_itself() -> None:
    assert Method(transform=Sign("none"), aggregation=MajorityVote()).bits(5, 5) == (5, 5, True)
    assert Method(transform=Quantize(3, scale="shared")).bits(1, 5)[:2] == (15, 15)
    assert Mean().received_bits(None, 4) == 32


def test_a_part_from_elsewhere_that_counts_is_asked_by_the_run_that_has_it() -> None:
    class Thrifty(Clip):
        def sent_bits(self, count: int) -> int:
            return 3 * count

    mine = Method(transform=Thrifty())
    record = RoundRecord(0, 0.1, 1e-3, np.zeros((1, 5), np.float32), 2)
    data = mine.as_data()
    assert data["counted_by_parts"] is True
    assert Method.bits_of(data, record, mine)[:2] == (15, 160)
    for other in (None, Method()):
        with pytest.raises(ValueError, match=r"is not one of .*--method CONFIG"):
            Method.bits_of(data, record, other)
