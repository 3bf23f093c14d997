"""Hostile clients of a simulation: said at the start of a run, and counted."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray
from typing_extensions import override

from hiso_pl.callbacks.contract import OrderedCallback, callbacks_of, federated, optimizer_of
from hiso_pl.zeroth_order.attack import Attack
from hiso_pl.zeroth_order.record import told

log = logging.getLogger(__name__)

NAMED = 20
"""Hostile clients that a summary names; of more it has the number."""


class HostileClients(OrderedCallback):
    """Says at a run's start that it is attacked, and by whom, and counts the slots in which they were.

    Attributes:
        attack: The method's attack, if it has one.
        slots: How often a hostile client has taken part so far.
    """

    position = 40

    def __init__(self) -> None:
        self.attack: Attack | None = None
        self.slots = 0
        self._clients: NDArray[np.int64] = np.zeros(0, dtype=np.int64)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.attack = getattr(getattr(pl_module, "method", None), "attack", None)
        if self.attack is None:
            return
        clients = trainer.datamodule.clients  # type: ignore[attr-defined]
        self._clients = self.attack.hostile(federated(pl_module).seed, clients)
        if trainer.is_global_zero and len(self._clients):
            log.warning(
                "This run is attacked: %s, %d of %d clients: %s.",
                self.attack, len(self._clients), clients, told(self._clients, NAMED),
            )  # fmt: skip
        elif trainer.is_global_zero:
            log.warning("%s makes none of %d clients hostile: the run is an honest one.", self.attack, clients)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        report = optimizer_of(trainer).report
        if report is not None:
            self.slots += len(report.hostile)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"slots": self.slots}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.slots = int(state_dict["slots"])

    @property
    def summary(self) -> dict[str, Any]:
        """What a summary says of the attack; nothing of an honest run."""
        if self.attack is None:
            return {}
        [(name, options)] = self.attack.as_data().items()
        return {
            "attack": {
                "name": name,
                "options": options,
                "hostile": len(self._clients),
                "hostile_clients": self._clients[:NAMED].tolist(),
                "hostile_slots": self.slots,
            }
        }


def attack_of(trainer: Trainer) -> dict[str, Any]:
    """What a summary says of an attack on the run; nothing of an honest one."""
    return {key: value for callback in callbacks_of(trainer, HostileClients) for key, value in callback.summary.items()}
