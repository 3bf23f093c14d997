"""Who is left out of rounds, and when that ends a run."""

from __future__ import annotations

import logging
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from hiso_pl.callbacks.contract import OrderedCallback, callbacks_of, optimizer_of
from hiso_pl.callbacks.signals import interrupted
from hiso_pl.errors import RunError
from hiso_pl.run.folder import SUMMARY
from hiso_pl.zeroth_order.record import RoundReport

log = logging.getLogger(__name__)


class ParticipationError(RunError):
    """Too many clients are left out for the run to be what was asked for."""


class Participation(OrderedCallback):
    """Tells of the first client that is left out as its losses are not finite, and ends a run that loses too many.

    Clients that do not answer, as their absence is simulated, are no such loss; but rounds in a row that move nothing
    are too many all the same, and so are all of a run's.

    Args:
        max_empty_rounds: Rounds in a row without any client left that are too many; a run of fewer rounds fails at its
            end if all were empty.
        max_dropped: Share of all slots so far that may be left out, in [0, 1]; judged once ``max_empty_rounds`` rounds
            have been, and at the end.
    """

    position = 110  # at the end, all else has been written by then

    def __init__(self, max_empty_rounds: int = 20, max_dropped: float = 0.5) -> None:
        if max_empty_rounds < 1:
            raise ValueError(f"max_empty_rounds={max_empty_rounds} must be at least 1")
        if not 0.0 <= max_dropped <= 1.0:
            raise ValueError(f"max_dropped={max_dropped} must be in [0, 1]")
        self.max_empty_rounds = max_empty_rounds
        self.max_dropped = max_dropped
        self.dropped = 0
        self._slots = self._rounds = self._empty = self._empty_in_a_row = 0

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        report = optimizer_of(trainer).report
        if report is None:
            return
        faults, absent = report.faults, len(report.absent)
        if faults and not self.dropped:
            log.warning(
                "Round %d leaves out %s: not all of their %s are finite. Further ones are only counted, as "
                "scalar/dropped in TensorBoard and dropped_slots in %s.",
                trainer.global_step,
                _named(report),
                _judged(report),
                SUMMARY,
            )
        empty = len(report.dropped) == len(report.clients)
        if empty and not self._empty:
            why = "too few clients answer" if absent else "no client is left"
            log.warning("Round %d moves nothing, as %s.", trainer.global_step, why)
        self.dropped += len(faults)
        self._slots += len(report.clients) - absent
        self._rounds += 1
        self._empty += empty
        self._empty_in_a_row = self._empty_in_a_row + 1 if empty else 0
        if self._empty_in_a_row >= self.max_empty_rounds and absent and not faults:
            raise ParticipationError(
                f"{self._empty_in_a_row} rounds in a row, up to round {trainer.global_step}, moved nothing "
                f"(participation.max_empty_rounds={self.max_empty_rounds}), as clients do not answer: "
                f"{_why(batch)} in the last"
            )
        if self._empty_in_a_row >= self.max_empty_rounds:
            raise ParticipationError(
                f"{self._empty_in_a_row} rounds in a row, up to round {trainer.global_step}, had no client left, as "
                f"their {_judged(report)} are not finite (participation.max_empty_rounds={self.max_empty_rounds}): "
                "start again with a smaller lr or mu"
            )
        if self._rounds >= self.max_empty_rounds:
            self._judge(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if interrupted(trainer):
            return
        self._judge(trainer)
        if self._rounds and self._empty == self._rounds:
            raise ParticipationError(
                f"none of the {self._rounds} rounds moved anything, as too few clients answered: see "
                "data.availability, data.dropout and data.deadline"
            )

    def _judge(self, trainer: Trainer) -> None:
        """Ends the run, by a ParticipationError, if too many slots were left out."""
        if self._slots and self.dropped > self.max_dropped * self._slots:
            raise ParticipationError(
                f"{self.dropped} of {self._slots} slots were left out up to round {trainer.global_step}, as their "
                f"losses are not finite (participation.max_dropped={self.max_dropped:g}): "
                "start again with a smaller lr or mu"
            )

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "dropped": self.dropped,
            "slots": self._slots,
            "rounds": self._rounds,
            "empty": self._empty,
            "empty_in_a_row": self._empty_in_a_row,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.dropped, self._slots = int(state_dict["dropped"]), int(state_dict["slots"])
        self._rounds, self._empty = int(state_dict["rounds"]), int(state_dict["empty"])
        self._empty_in_a_row = int(state_dict["empty_in_a_row"])


def dropped_slots(trainer: Trainer) -> int:
    """How often a client was left out of a round so far."""
    return sum(callback.dropped for callback in callbacks_of(trainer, Participation))


def _judged(report: RoundReport) -> str:
    """What must be finite of a client."""
    if report.hostile:
        return "losses, or what hostile clients make of them,"
    return "losses" if report.scalars is not None else "losses and models"


def _why(batch: Any) -> str:
    attendance = getattr(batch, "attendance", None)
    return "nobody has said why" if attendance is None else str(attendance.why())


def _named(report: RoundReport) -> str:
    """The clients that a round has dropped."""
    clients = ", ".join(str(report.clients[slot]) for slot in report.faults)
    return f"{len(report.faults)} of its {len(report.clients)} clients ({clients})"
