"""Traffic against the numbers of the paper."""

from __future__ import annotations

import pytest

from hiso_pl.federation import Traffic


def counted(rounds: int, **setting: int) -> Traffic:
    traffic = Traffic()
    for _ in range(rounds):
        traffic.record(**{"clients": 6, "cohort": 2, "local_steps": 1, "directions": 5, **setting})
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
        resumed.record(clients=6, cohort=2, local_steps=1, directions=5)
    assert resumed.state_dict() == counted(7).state_dict()
    assert {type(value) for value in resumed.state_dict().values()} == {int, float}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"cohort": 7}, r"^cohort=7 must be in \[1, clients=6\]$"),
        ({"local_steps": 0}, "^local_steps=0 must be at least 1$"),
        ({"directions": 0}, "^directions=0 must be at least 1$"),
    ],
)
def test_what_cannot_be_is_refused(setting: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        counted(1, **setting)
