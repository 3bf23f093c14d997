"""Clients that are away, drop out or are slow: what it costs the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from hiso_pl.callbacks.contract import OrderedCallback, callbacks_of, federated
from hiso_pl.federation.presence.clock import Clock


class Attending(OrderedCallback):
    """Counts what clients fetch that were away, and the seconds of the simulated clock, where absence is simulated.

    The round's report gets ``presence/*``, ``comm/catch_up_kb`` and ``time/simulated_s`` for the curves. Rounds of
    which nothing was kept, as after a resume from the ledger, are gone through by the options of now.
    """

    position = 40  # before the curves

    def __init__(self) -> None:
        self.clock: Clock | None = None
        self._held: Mapping[str, Any] | None = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        self.clock = None
        presence = data.presence() if hasattr(data, "presence") else None
        if presence is None or not presence.simulated or presence.method is None:
            return
        self.clock = Clock(len(presence.sizes))
        if self._held is not None and int(self._held["rounds"]) <= trainer.global_step:
            self.clock.load_state_dict(self._held)
        while self.clock.rounds < trainer.global_step:
            self.clock.record(presence.attendance(self.clock.rounds))

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        run = federated(pl_module)
        if self.clock is None or run.last_round is None:
            return
        self.clock.record(batch.attendance)
        figures = {**run.last_round.figures, **self.clock.figures}
        run.last_round = run.last_round._replace(figures=figures)

    @override
    def state_dict(self) -> dict[str, Any]:
        return (self.clock or Clock(1)).state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._held = dict(state_dict)


def attendance_of(trainer: Trainer) -> dict[str, float]:
    """What a summary says of it; nothing where nobody is absent."""
    clocks = [callback.clock for callback in callbacks_of(trainer, Attending) if callback.clock is not None]
    if not clocks:
        return {}
    found = {"absent_slots": clocks[0].absent, "catch_up_kb": clocks[0].catch_up_kb}
    return found | ({"simulated_s": clocks[0].seconds} if "time/simulated_s" in clocks[0].figures else {})
