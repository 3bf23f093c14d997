"""Runs of the real optimizer that write a ledger, and ledgers made by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hiso_pl.ledger import Header, LedgerWriter
from hiso_pl.ledger import header_of as make
from hiso_pl.zeroth_order import Method, RoundRecord, ZerothOrderOptimizer
from hiso_pl.zeroth_order.digest import digest

SLOTS = 3


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 4))


def make_header(parameters: list[tuple[str, Tensor]], optimizer: ZerothOrderOptimizer | None = None, **other: Any):
    method = Method() if optimizer is None else optimizer.method
    options: dict[str, Any] = {
        "seed": 5,
        "clients": SLOTS,
        "cohort": SLOTS,
        "frozen_sha256": "0" * 64,
        "configuration": {"model": {"lr": 0.1}, "threads": 2},
        "versions": {"torch": "1"},
    }
    return make(parameters, method, **{**options, **other})


@dataclass
class Run:
    """What is known of a run that wrote a ledger."""

    path: Path
    digests: list[str]
    records: list[RoundRecord]
    initial: dict[str, Tensor]
    optimizer: ZerothOrderOptimizer
    header: Header


def losses_of(model: nn.Module, round: int, nan: tuple[int, ...]) -> list[Callable[[int], Tensor]]:
    def loss(slot: int) -> Callable[[int], Tensor]:
        generator = torch.Generator().manual_seed(100 * round + slot)
        inputs = torch.randn(8, 7, generator=generator)
        targets = torch.randint(0, 4, (8,), generator=generator)
        if slot in nan:
            return lambda k: torch.tensor(float("nan"))
        return lambda k: nn.functional.cross_entropy(model(inputs), targets)

    return [loss(slot) for slot in range(SLOTS)]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    """Runs some rounds: in round 3 a slot is dropped, in round 5 all of them."""

    def run(rounds: int = 20, closed: bool = True, **options: Any) -> Run:
        model = network()
        optimizer = ZerothOrderOptimizer(
            model.named_parameters(), **{"lr": 0.02, "seed": 5, "num_directions": 2, **options}
        )
        parameters = [(name, p.detach()) for name, p in model.named_parameters()]
        initial = {name: p.clone() for name, p in parameters}
        header = make_header(parameters, optimizer)
        writer = LedgerWriter(tmp_path / "rounds.ledger", header, initial)
        digests, records = [digest(optimizer)], []
        for r in range(rounds):
            nan = {3: (1,), 5: tuple(range(SLOTS))}.get(r, ())
            if r == 7:
                optimizer.param_groups[0]["lr"] = 0.013
            optimizer.step(losses=losses_of(model, r, nan))
            assert optimizer.record is not None
            writer.append(optimizer.record)
            digests.append(digest(optimizer))
            records.append(optimizer.record)
        writer.close(digests[-1] if closed else None)
        return Run(writer.path, digests, records, initial, optimizer, header)

    return run


def made_record(round: int, tau: int = 1, directions: int = 2, cohort: int = SLOTS, **other: Any) -> RoundRecord:
    scalars = np.random.default_rng(round).standard_normal((tau, directions)).astype(np.float32)
    return RoundRecord(**{"round": round, "lr": 1e-3, "mu": 1e-3, "scalars": scalars, "cohort": cohort, **other})


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A closed ledger of ten rounds, made by hand."""
    parameters = [(name, p.detach()) for name, p in network().named_parameters()]
    with LedgerWriter(tmp_path / "rounds.ledger", make_header(parameters), dict(parameters)) as writer:
        for r in range(10):
            writer.append(made_record(r, directions=2 + r % 3, dropped=(1,) if r == 4 else ()))
        writer.close("ab" * 32)
    return writer.path


@pytest.fixture
def record_of() -> Callable[..., RoundRecord]:
    """Makes a record of a round; the same for the same arguments."""
    return made_record


@pytest.fixture
def header_of() -> Callable[..., Header]:
    """Makes the header of the small network's run."""
    return lambda **other: make_header([(name, p.detach()) for name, p in network().named_parameters()], **other)


@pytest.fixture
def start() -> dict[str, Tensor]:
    """The small network's tensors."""
    return {name: p.detach() for name, p in network().named_parameters()}
