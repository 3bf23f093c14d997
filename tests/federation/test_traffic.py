"""Traffic against the numbers of the paper."""

from __future__ import annotations

import pytest

from hiso_pl.federation import Traffic
from hiso_pl.zeroth_order import Method
from hiso_pl.zeroth_order.record import Bits


def counted(rounds: int, *, cohort: int = 2, local_steps: int = 1) -> Traffic:
    traffic = Traffic()
    for _ in range(rounds):
        traffic.record(6, cohort, Method(local_steps=local_steps).bits(cohort, 5))
    return traffic


@pytest.mark.parametrize(("rounds", "kb"), [(1350, 52.73), (250, 9.77), (1500, 58.59)])
def test_the_papers_figures(rounds: int, kb: float) -> None:
    traffic = counted(rounds)
    assert round(traffic.paper_kb, 2) == kb
    assert traffic.paper_bytes == rounds * 40


def test_the_protocol_averages_what_goes_up_over_all_clients() -> None:
    traffic = counted(3)
    assert traffic.protocol_bytes == pytest.approx(3 * (20 + 20 * 2 / 6))
    assert traffic.protocol_kb == traffic.protocol_bytes / 1024


def test_a_full_cohort_costs_the_same_both_ways() -> None:
    traffic = counted(10, cohort=6, local_steps=3)
    assert traffic.protocol_bytes == traffic.paper_bytes == 10 * 2 * 3 * 5 * 4


def test_counting_goes_on_after_a_resume() -> None:
    resumed = Traffic()
    resumed.load_state_dict(counted(4).state_dict())
    for _ in range(3):
        resumed.record(6, 2, Method().bits(2, 5))
    assert resumed.state_dict() == counted(7).state_dict()
    assert all(type(value) in (int, float) for value in resumed.state_dict().values())


def test_who_takes_the_model_fetches_it_when_its_turn_comes() -> None:
    traffic = Traffic()
    traffic.record(6, 2, Bits(80, 160, missed=False))
    assert traffic.paper_bytes == 30
    assert traffic.protocol_bytes == pytest.approx(30 * 2 / 6)


@pytest.mark.parametrize(
    ("cohort", "bits", "message"),
    [
        (7, Bits(32, 32), r"^cohort=7 must be in \[1, clients=6\]$"),
        (0, Bits(32, 32), r"^cohort=0 must be in \[1, clients=6\]$"),
        (2, Bits(0, 32), r"^bits=.* must be at least 1 each way$"),
        (2, Bits(32, 0), r"^bits=.* must be at least 1 each way$"),
    ],
)
def test_what_cannot_be_is_refused(cohort: int, bits: Bits, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Traffic().record(6, cohort, bits)
