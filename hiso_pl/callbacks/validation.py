"""The validations of a run are the same whether or not it was stopped and resumed on the way."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from hiso_pl import lightning_privates
from hiso_pl.callbacks.contract import OrderedCallback
from hiso_pl.callbacks.signals import interrupted


class CompleteValidation(OrderedCallback):
    """Runs the validations that Lightning leaves out.

    - A checkpoint of a round that is also a validation round is written before the validation, and on resume Lightning
      takes that validation as done. It is run at the start then, if the checkpoint does not know of it.
    - A run whose length is not a multiple of ``trainer.val_check_interval`` ends without a validation. One is run, but
      not after an interrupt.
    - A run resumed after its last round ends before any hook is called, without the last validation, checkpoint and
      summary if these were missing. Its start and end are gone through all the same.

    Each is logged at the step where the uninterrupted run would have logged it.
    """

    position = 30

    def __init__(self) -> None:
        self.validated_round: int | None = None
        self._started = False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Sees to it that a run without a round left has a start and an end."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._started = False
            lightning_privates.start_and_end_when_done(trainer, lambda: self._started)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes up for a validation that was due in the round of the checkpoint."""
        self._started = True
        interval = trainer.val_check_batch
        due = isinstance(interval, int) and trainer.global_step > 0 and trainer.global_step % interval == 0
        if due and self._missing(trainer):
            lightning_privates.validate_now(trainer)

    @override
    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Keeps the loggers' step equal to the round; a checkpoint written in a validation holds one less."""
        lightning_privates.log_at_the_round(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the round, unless the validation was a trial of a few batches."""
        if trainer.state.fn != TrainerFn.FITTING or is_partial(trainer):
            return
        self.validated_round = trainer.global_step

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validates the final state if the last round was no validation round."""
        if self._missing(trainer) and trainer.global_step > 0 and not interrupted(trainer):
            lightning_privates.validate_now(trainer)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"validated_round": self.validated_round}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validated_round = state_dict["validated_round"]

    def _missing(self, trainer: Trainer) -> bool:
        return bool(trainer.enable_validation) and self.validated_round != trainer.global_step


def is_partial(trainer: Trainer) -> bool:
    """Whether the validation under way is a sanity check that does not see all batches."""
    return trainer.sanity_checking and trainer.num_sanity_val_steps != float("inf")
