"""Who of a cohort answers: rates, cohorts among those that are there, deadlines, and what absence costs."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hiso_pl.federation import DayAndNight, Fraction, LogNormal
from hiso_pl.federation.cohort import sample_cohort
from hiso_pl.federation.presence.attendance import Attendance, Presence, check_presence
from hiso_pl.federation.presence.availability import Availability, sample_available
from hiso_pl.federation.presence.clock import Clock
from hiso_pl.first_order import FedAvg, FedZO
from hiso_pl.zeroth_order import Method
from hiso_pl.zeroth_order.philox import Draws, Purpose, uniform_each
from hiso_pl.zeroth_order.record import Bits
from hiso_pl.zeroth_order.schedule import Steps

SEED = 20261120
METHOD = Method(num_directions=3, local_steps=2, num_directions_schedule=Steps(milestones=[4], values=[7]))


def presence(clients: int = 12, size: int = 4, **options: Any) -> Presence:
    given = {"availability": None, "dropout": 0.0, "deadline": None, "speeds": None, "method": METHOD}
    sizes = np.arange(clients) % 7 + 2
    return Presence(seed=SEED, sizes=sizes, size=size, batch_size=5, parameters=100, **{**given, **options})


def within(count: int, of: int, rate: float) -> bool:
    """Whether a count is as a binomial's, up to five standard deviations."""
    return abs(count - of * rate) <= 5 * math.sqrt(of * rate * (1 - rate)) + 1e-9


def test_each_owners_uniform_is_the_first_of_its_own_draws() -> None:
    owners = np.array([7, 0, 123456, 2**32 - 1])
    found = uniform_each(SEED, Purpose.PRESENCE, owners, round=9, k=2, p=3)
    alone = [Draws(SEED, Purpose.PRESENCE, owner=int(o), round=9, k=2, p=3).uniform(1)[0] for o in owners]
    assert found.tolist() == alone


@pytest.mark.parametrize("availability", [Fraction(0.3), Fraction(0.3, spell=7), Fraction(1.0)])
def test_a_share_of_the_clients_is_there_whoever_is_asked_for(availability: Fraction) -> None:
    everybody = np.arange(200)
    found = np.array([availability.there(SEED, everybody, r) for r in range(350)])
    assert within(int(found[:: availability.spell].sum()), 200 * len(found[:: availability.spell]), availability.share)
    some = np.array([5, 3, 111])
    assert availability.there(SEED, some, 17).tolist() == found[17, some].tolist()
    changes = int((found[1:] != found[:-1]).sum())
    assert within(changes, found[1:].size, 2 * availability.share * (1 - availability.share) / availability.spell)


def test_by_day_there_are_more_and_zones_have_their_day_apart() -> None:
    availability, everybody = DayAndNight(period=10, day=0.8, night=0.1, zones=5), np.arange(3000)
    found = np.array([availability.there(SEED, everybody, r) for r in range(40)])
    assert within(int(found.sum()), found.size, 0.45)
    # how often a client was there in each half of a period, begun 0, 2, 4, 6 and 8 rounds before the period's end
    halves = np.array([np.roll(found, 2 * z, axis=0).reshape(4, 2, 5, -1).sum(axis=(0, 2))[0] for z in range(5)])
    zones = Counter(halves.argmax(axis=0).tolist())
    assert all(abs(zones[z] - 600) < 200 for z in range(5))
    alone = DayAndNight(period=10, day=1.0, night=0.0, zones=1)
    assert [bool(alone.there(SEED, everybody, r).all()) for r in range(10)] == [True] * 5 + [False] * 5
    assert not alone.there(SEED, everybody, 7).any()
    odd = DayAndNight(period=3, day=1.0, night=0.0, zones=1)  # a half of it is one round and a half
    assert [bool(odd.there(SEED, everybody, r).any()) for r in range(6)] == [True, True, False] * 2


@pytest.mark.parametrize(("clients", "size"), [(8, 4), (5, 5), (1000, 3)])
def test_cohorts_are_as_ever_where_everybody_is_there(clients: int, size: int) -> None:
    for round in range(20):
        ever = sample_cohort(SEED, round, clients, size)
        assert sample_available(Fraction(1.0), SEED, round, clients, size) == (ever, ())
        found = presence(clients, size, availability=Fraction(1.0), speeds=LogNormal()).attendance(round)
        assert (found.clients, found.absent) == (ever, ())
        assert presence(clients, size).attendance(round) == Attendance(ever)


class Only(Availability):
    """Some clients are there, and no others; counts whom it was asked for."""

    def __init__(self, some: set[int]) -> None:
        self.some, self.asked = some, 0

    def there(self, seed: int, clients: np.ndarray, round: int) -> np.ndarray:
        self.asked += len(clients)
        return np.isin(clients, sorted(self.some))


@pytest.mark.parametrize(("clients", "some"), [(9, {1, 4, 6, 8}), (400, set(range(3, 400, 5)))])
def test_everybody_who_is_there_is_as_likely_in_a_cohort(clients: int, some: set[int]) -> None:
    rounds, counts, slots = 1000, Counter[int](), Counter[int]()
    for round in range(rounds):
        cohort, away = sample_available(Only(some), SEED, round, clients, 3)
        assert sorted(set(cohort)) == list(cohort)
        assert (len(cohort), away) == (3, ())
        counts.update(cohort)
        slots[cohort[0]] += 1
    assert set(counts) == some
    assert all(within(counts[client], rounds, 3 / len(some)) for client in some)
    # the least of three of n is the least of all with probability 3 / n
    assert within(slots[min(some)], rounds, 3 / len(some))


@pytest.mark.parametrize(("clients", "some"), [(9, {2, 5}), (500, {33, 401}), (500, set())])
def test_slots_that_nobody_could_take_are_of_clients_that_are_away(clients: int, some: set[int]) -> None:
    for round in range(50):
        cohort, away = sample_available(Only(some), SEED, round, clients, 4)
        assert sorted(set(cohort)) == list(cohort)
        assert {cohort[slot] for slot in range(4) if slot not in away} == some
        assert (len(cohort), len(away)) == (4, 4 - len(some))


def test_a_cohort_costs_its_size_and_not_the_population() -> None:
    few = Only(set(range(0, 10**6, 50)))
    for round in range(20):
        assert not sample_available(few, SEED, round, 10**6, 8)[1]
    assert few.asked < 20 * 8 * 50 * 4


def test_clients_drop_out_at_the_rate_that_is_stated() -> None:
    found = [presence(dropout=0.3).attendance(r) for r in range(500)]
    assert within(sum(len(one.failed) for one in found), 500 * 4, 0.3)
    assert all(one.absent == one.failed for one in found)
    both = [presence(availability=Fraction(0.4), dropout=0.5).attendance(r) for r in range(500)]
    assert not any(set(one.away) & set(one.failed) for one in both)
    there = sum(4 - len(one.away) for one in both)
    assert within(sum(len(one.failed) for one in both), there, 0.5)


def test_speeds_are_log_normal_and_a_clients_own() -> None:
    pace = LogNormal(50.0, 0.7, 1000.0, 0.2, 0.1).of(SEED, np.arange(20000))
    for found, median, spread in ((pace.examples, 50.0, 0.7), (pace.bits, 8000.0, 0.2)):
        z = np.log(found / median) / spread
        assert abs(z.mean()) < 0.04
        assert abs(z.std() - 1.0) < 0.03
        assert abs((z < -1).mean() - 0.1587) < 0.015
    assert abs(np.corrcoef(np.log(pace.examples), np.log(pace.bits))[0, 1]) < 0.04
    again = LogNormal(50.0, 0.7, 1000.0, 0.2, 0.1).of(SEED, np.array([19, 3]))
    assert again.examples.tolist() == pace.examples[[19, 3]].tolist()
    assert set(LogNormal(50.0, 0.0).of(SEED, np.arange(9)).examples) == {50.0}


@pytest.mark.parametrize(
    ("method", "passes", "steps", "bits"),
    [
        (METHOD, lambda r: 4 if r < 4 else 8, 2, lambda r: 2 * 32 * 2 * (3 if r < 4 else 7)),
        (Method(num_directions=3, difference="central", directions="client"), lambda r: 6, 1, lambda r: 32 * 3 * 5),
        (FedAvg(local_steps=3), lambda r: 3, 3, lambda r: 2 * 32 * 100),
        (FedAvg(local_epochs=2), lambda r: 3, None, lambda r: 2 * 32 * 100),
        (FedZO(num_directions=4), lambda r: 5, 1, lambda r: 2 * 32 * 100),
    ],
)
def test_a_clients_time_is_its_passes_and_its_bytes(method: Any, passes: Any, steps: int | None, bits: Any) -> None:
    """By a plain loop."""
    speeds = LogNormal(10.0, 0.8, 500.0, 0.5, 0.25)
    some = presence(method=method, speeds=speeds, deadline=3.0)
    for round in range(8):
        found = some.attendance(round)
        late = []
        for slot, client in enumerate(found.clients):
            pace = speeds.of(SEED, np.array([client]))
            held = client % 7 + 2
            examples = 2 * held if steps is None else steps * min(5, held)
            expected = 2 * 0.25 + passes(round) * examples / pace.examples[0] + bits(round) / pace.bits[0]
            assert found.seconds[slot] == pytest.approx(expected, rel=1e-12)
            late += [slot] if expected > 3.0 else []
        assert list(found.late) == late == list(found.absent)
    assert not any(replace(some, deadline=None).attendance(r).absent for r in range(8))


def test_a_deadline_that_nobody_meets_is_refused_and_one_that_some_do_is_not() -> None:
    some = presence(speeds=LogNormal(10.0, 0.8), deadline=10.0)
    each = [float(some._times(np.array([client]), 0)[0][0]) for client in range(12)]
    with pytest.raises(ValueError, match=rf"^deadline=0\.001 is met by nobody: .* client {np.argmin(each)}, takes "):
        replace(some, deadline=0.001).check(range(5))
    just = replace(some, deadline=sorted(each)[2])
    assert just.check(range(5)) == 3
    assert presence().check(range(5)) is None


def test_what_absence_costs_is_what_a_plain_loop_finds() -> None:
    speeds = LogNormal(10.0, 0.8, 50.0, 0.5, 0.1)
    for method in (METHOD, FedAvg()):
        for deadline in (None, 4.0):
            some = presence(
                availability=Fraction(0.4, spell=5), dropout=0.2, deadline=deadline, speeds=speeds, method=method
            )
            clock = Clock(12)
            down: list[int] = []  # bits of each record
            received = dict.fromkeys(range(12), 0)  # how many of them each client has
            seconds = fetched = 0.0
            for round in range(60):
                found = some.attendance(round)
                bits = method.bits_at(round, 4, 100)
                missed, lasted = [], 0.0
                for slot, client in enumerate(found.clients):
                    if slot in found.away:
                        continue
                    behind = down[received[client] : round]
                    missed.append(len(behind))
                    amount = sum(behind) if bits.missed else 0
                    fetched += amount
                    catching = amount / speeds.of(SEED, np.array([client])).bits[0]
                    received[client] = round
                    if slot not in found.absent:
                        received[client] = round + 1
                        lasted = max(lasted, catching + found.seconds[slot])
                    elif deadline is not None:
                        lasted = max(lasted, catching + deadline)
                down.append(bits.down)
                seconds += lasted
                clock.record(found)
                figures = clock.figures
                assert figures["presence/absent"] == len(found.absent)
                assert figures["presence/missed_rounds"] == pytest.approx(np.mean(missed) if missed else 0.0)
                assert figures["presence/missed_rounds_max"] == max(missed, default=0)
                assert figures["comm/catch_up_kb"] == pytest.approx(fetched / 8 / 1024 / 12)
                assert figures["time/simulated_s"] == pytest.approx(seconds)
                assert ("presence/late" in figures) == (deadline is not None)
                clock = _gone_on(clock)
            assert seconds > 0
            assert (fetched > 0) == (method is METHOD)


def _gone_on(clock: Clock) -> Clock:
    """The same clock after a resume."""
    resumed = Clock(clock.clients)
    resumed.load_state_dict(clock.state_dict())
    return resumed


def test_a_damaged_state_is_refused() -> None:
    clock = Clock(2)
    clock.record(Attendance((5,), bits=Bits(8, 8)))
    with pytest.raises(ValueError, match=r"^the checkpoint is damaged: seen must tell of clients below 2$"):
        Clock(2).load_state_dict(clock.state_dict())
    with pytest.raises(ValueError, match=r"^the checkpoint is damaged"):
        Clock(9).load_state_dict({**clock.state_dict(), "seen": {"clients": [[5, 1, 8]]}})


def test_why_nobody_answered_is_said() -> None:
    found = Attendance((1, 2, 3, 5), away=(0,), failed=(3,), late=(1, 2), seconds=(1.0, 7.0, 6.5, 1.0), deadline=5.0)
    assert found.why() == (
        "1 of 4 away (data.availability), 1 of 4 dropped out (data.dropout), 2 of 4 later than data.deadline=5, the "
        "fastest after 6.5 s"
    )
    assert found.absent == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fraction(0.0), r"^share=0.0 must be above 0 and at most 1$"),
        (lambda: Fraction(math.nan), r"^share=nan must be above 0 and at most 1$"),
        (lambda: Fraction(1.1), r"^share=1.1 must be above 0 and at most 1$"),
        (lambda: Fraction(0.5, spell=0), r"^spell=0 must be a whole number in \[1, 1048576\]$"),
        (lambda: DayAndNight(period=1), r"^period=1 must be a whole number in \[2, "),
        (lambda: DayAndNight(day=0.0), r"^day=0.0 must be above 0 and at most 1$"),
        (lambda: DayAndNight(night=-0.1), r"^night=-0.1 must be in \[0, 1\]$"),
        (lambda: DayAndNight(zones=0), "^zones=0 must be a whole number"),
        (lambda: LogNormal(0.0), "^examples_per_second=0.0 must be finite and above 0$"),
        (lambda: LogNormal(math.inf), "^examples_per_second=inf must be finite"),
        (lambda: LogNormal(bytes_per_second=-1.0), "^bytes_per_second=-1.0 must be finite"),
        (lambda: LogNormal(spread=math.nan), r"^spread=nan must be in \[0, 10\]"),
        (lambda: LogNormal(link_spread=11.0), r"^link_spread=11.0 must be in \[0, 10\]"),
        (lambda: LogNormal(latency=-1.0), "^latency=-1.0 must be finite and at least 0$"),
        (
            lambda: check_presence(1.0, None, None),
            r"^dropout=1.0 must be at least 0 and below 1$",
        ),
        (lambda: check_presence(math.nan, None, None), "^dropout=nan must be at least 0"),
        (lambda: check_presence(-0.1, None, None), "^dropout=-0.1 must be at least 0"),
        (lambda: check_presence(0.0, 0.0, LogNormal()), "^deadline=0.0 must be finite and above 0 seconds, or null"),
        (lambda: check_presence(0.0, -3.0, LogNormal()), "^deadline=-3.0 must be finite and above 0"),
        (lambda: check_presence(0.0, math.nan, LogNormal()), "^deadline=nan must be finite"),
        (lambda: check_presence(0.0, 3.0, None), "^deadline=3.0 needs to know what clients take: set speeds"),
        (lambda: presence(method=None, speeds=LogNormal()), "^speeds need to know what a client computes"),
    ],
)
def test_what_cannot_be(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
