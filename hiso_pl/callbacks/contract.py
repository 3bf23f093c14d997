"""What the callbacks ask of the module of a run, and the order they must be called in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override

from hiso_pl.zeroth_order.interfaces import RoundOptimizer
from hiso_pl.zeroth_order.record import RoundReport

UNORDERED = 50
CHECKPOINTS = 100


class TrafficCount(Protocol):
    """Bytes of a client so far, by two ways of counting."""

    paper_bytes: int

    @property
    def paper_kb(self) -> float:
        """By the paper's way."""

    @property
    def protocol_kb(self) -> float:
        """By the protocol's way."""


class ExchangeCount(Protocol):
    """Bytes this rank handed over so far."""

    payload_bytes: int


class Federated(Protocol):
    """What a module offers to the callbacks.

    Attributes:
        last_round: The round just done; none before the first.
        last_validation: Metrics of the last validation by full name (``val/accuracy``), set at its epoch's end.
        last_test: Metrics of the last test, likewise.
        stop_agreed: Whether the ranks agreed in the last exchange to stop after it.
        traffic: Bytes of a client.
        exchange: The exchange of this rank.
    """

    last_round: RoundReport | None
    last_validation: Mapping[str, float]
    last_test: Mapping[str, float]
    stop_agreed: bool
    traffic: TrafficCount
    exchange: ExchangeCount

    def request_stop(self) -> None:
        """Asks for a stop after the coming exchange; called from a signal handler, so it only sets a flag."""

    def fingerprints(self) -> dict[str, str]:
        """Hashes of everything that must be the same on all ranks."""


def federated(pl_module: LightningModule) -> Federated:
    """The module as what it offers to callbacks."""
    return cast(Federated, pl_module)


def optimizer_of(trainer: Trainer) -> RoundOptimizer:
    """The one optimizer of the run."""
    return cast(RoundOptimizer, trainer.optimizers[0])


class OrderedCallback(Callback):
    """A callback with a place among the others, whatever order a configuration lists them in.

    At the end of a run the ranks are compared, then a missing validation is run, then panels are drawn, then the last
    checkpoint is written, which holds all of that, and the summary last.

    Attributes:
        position: Callbacks are called in ascending position; one without has 50, checkpoints come last.
    """

    position: int = UNORDERED

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Puts the callbacks in order."""
        # a new list: the trainer is walking over the old one
        trainer.callbacks = sorted(trainer.callbacks, key=_position)  # type: ignore[attr-defined]


def _position(callback: Callback) -> int:
    if isinstance(callback, Checkpoint):
        return CHECKPOINTS
    return callback.position if isinstance(callback, OrderedCallback) else UNORDERED
