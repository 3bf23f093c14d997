"""What the callbacks ask of the module of a run, and the order they must be called in."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override

from hiso_pl.zeroth_order.interfaces import RoundOptimizer

if TYPE_CHECKING:
    from hiso_pl.module import FederatedModule
    from hiso_pl.stages.group import StageGroup

C = TypeVar("C", bound=Callback)
UNORDERED = 50
CHECKPOINTS = 100


def federated(pl_module: LightningModule) -> FederatedModule:
    """The module of the run as what it is."""
    return cast("FederatedModule", pl_module)


def optimizer_of(trainer: Trainer) -> RoundOptimizer:
    """The one optimizer of the run."""
    return cast(RoundOptimizer, trainer.optimizers[0])


def group_of(pl_module: LightningModule) -> StageGroup | None:
    """The ranks that hold the module's network together; None where it is whole."""
    return getattr(pl_module, "group", None)


def callbacks_of(trainer: Trainer, kind: type[C]) -> list[C]:
    """The run's callbacks of a kind."""
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]


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
