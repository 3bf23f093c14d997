"""Schedules beside the length of the run; what torch's own schedulers do is the measure."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as torch_schedules

from hiso_pl.run.schedules import CosineToEnd, check_lengths, follow
from hiso_pl.zeroth_order import Cosine, Linear, Method, Steps, ZerothOrderOptimizer

RUN = 200
END = f"trainer.max_steps={RUN}"


def bearer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)


def followed(schedule: Any, rounds: int) -> list[float]:
    """The learning rate of each round, and after the last."""
    rates = [schedule.get_last_lr()[0]]
    for _ in range(rounds):
        schedule.optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    return rates


@pytest.mark.parametrize("rounds", [1, 7, 4000])
def test_a_cosine_to_the_end_is_torch_s_of_that_length_to_the_bit(rounds: int) -> None:
    mine = CosineToEnd(bearer(), eta_min=0.01)
    follow(mine, rounds)
    theirs = torch_schedules.CosineAnnealingLR(bearer(), rounds, eta_min=0.01)
    assert followed(mine, rounds) == followed(theirs, rounds)
    assert mine.state_dict()["T_max"] == rounds
    given = CosineToEnd(bearer(), rounds=5)
    follow(given, rounds)
    assert given.T_max == 5


def test_what_has_no_run_to_follow_says_so() -> None:
    with pytest.raises(ValueError, match=r"CosineToEnd is as long as its run, .*: give it rounds"):
        followed(CosineToEnd(bearer()), 1)
    with pytest.raises(ValueError, match="rounds=0 must be at least 1"):
        CosineToEnd(bearer(), rounds=0)
    network = torch.nn.Linear(3, 2)
    optimizer = ZerothOrderOptimizer(network.named_parameters(), mu_schedule=Cosine(1e-4))
    with pytest.raises(ValueError, match=r"Cosine\(final=0.0001, rounds=None\) is as long as its run"):
        optimizer.step(lambda: network(torch.ones(3)).sum())


def test_schedules_of_a_method_take_the_length_of_the_run() -> None:
    method = Method(mu_schedule=Cosine(1e-4), num_directions_schedule=Linear(2, rounds=9))
    assert method.over(40) == Method(mu_schedule=Cosine(1e-4, 40), num_directions_schedule=Linear(2, rounds=9))
    assert Method().over(40) == Method()
    assert method.over(40).mu_at(40) == 1e-4


def test_a_cosine_within_a_sequence_takes_its_share() -> None:
    optimizer = bearer()
    warm = torch_schedules.LinearLR(optimizer, total_iters=20)
    sequence = torch_schedules.SequentialLR(optimizer, [warm, CosineToEnd(optimizer)], [20])
    follow(sequence, RUN)
    assert followed(sequence, RUN)[-1] == pytest.approx(0.0, abs=1e-12)


def sequence(milestone: int, length: int) -> Callable[[Any], Any]:
    def make(optimizer: Any) -> Any:
        parts = [torch_schedules.LinearLR(optimizer, total_iters=20)]
        return torch_schedules.SequentialLR(
            optimizer, [*parts, torch_schedules.CosineAnnealingLR(optimizer, length)], [milestone]
        )

    return make


def of(name: str, *args: Any, **options: Any) -> Callable[[Any], Any]:
    return lambda optimizer: getattr(torch_schedules, name)(optimizer, *args, **options)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            of("CosineAnnealingLR", 4000),
            f"T_max=4000 is longer than the run, as {END} cuts it off: set it to 200, or",
        ),
        (of("CosineAnnealingLR", 100), f"T_max=100 is shorter than the run, so the rate rises again before {END}: set"),
        (of("CosineAnnealingLR", RUN), None),
        (of("CosineAnnealingWarmRestarts", 500), "T_0=500 is longer"),
        (of("LinearLR", total_iters=300), "total_iters=300 is longer"),
        (of("LinearLR", total_iters=20), None),  # a warmup
        (of("LinearLR", end_factor=0.0, total_iters=20), f"shorter than the run, so the rate is 0 from there to {END}"),
        (of("PolynomialLR", total_iters=20), "total_iters=20 is shorter than the run, so the rate is 0"),
        (of("OneCycleLR", 0.1, epochs=3, steps_per_epoch=100), "total_steps=300 is longer than the run"),
        (of("OneCycleLR", 0.1, total_steps=RUN), None),
        (of("MultiStepLR", [100, 200, 300]), r"milestones=\[200, 300\] lie beyond the run and never act"),
        (of("StepLR", 300), "step_size=300 is longer"),
        (of("StepLR", 20), None),
        (of("ExponentialLR", 0.9), None),
        (of("ReduceLROnPlateau"), None),
        (sequence(20, 180), None),
        (sequence(20, 200), "its CosineAnnealingLR: T_max=200 is longer than its share, as the end of its 180 rounds"),
        (sequence(2000, 180), r"milestones=\[2000\] lie beyond the run"),
    ],
)
def test_a_length_that_contradicts_the_run_is_told_in_one_line(make: Callable[[Any], Any], said: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lines = check_lengths(make(bearer()), Method(), RUN)
    assert len(lines) == (said is not None)
    if said is not None:
        (line,) = lines
        assert line.startswith("model.lr_scheduler=")
        assert re.search(said, line)


def test_schedules_of_mu_and_of_directions_are_looked_at_too() -> None:
    method = Method(mu_schedule=Cosine(1e-4, 300), num_directions_schedule=Steps([10, 300], [2, 3]))
    first, second = check_lengths(None, method, RUN)
    assert first.startswith("model.method.mu_schedule=Cosine: rounds=300 is longer than the run")
    assert second.startswith("model.method.num_directions_schedule=Steps: milestones=[300] lie beyond the run")
    assert check_lengths(None, Method(mu_schedule=Linear(1e-4, 20)), RUN) == []


def test_one_that_would_break_the_run_off_is_refused() -> None:
    """torch's OneCycleLR raises in the round after its last, and not before."""
    cycle = torch_schedules.OneCycleLR(bearer(), 0.1, total_steps=RUN)
    followed(cycle, RUN)
    with pytest.raises(ValueError, match="Tried to step"):
        followed(cycle, 1)
    with pytest.raises(ValueError, match=f"total_steps=100 is shorter .*, which would break off before {END}"):
        check_lengths(torch_schedules.OneCycleLR(bearer(), 0.1, total_steps=100), Method(), RUN)
