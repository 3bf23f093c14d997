"""SIGINT, SIGTERM and SIGHUP end a run after a round, on all ranks after the same one."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from hiso_pl.callbacks.contract import OrderedCallback, callbacks_of, federated
from hiso_pl.lightning_privates import end_after_this_round, leave_signals_alone
from hiso_pl.ranks import early_signals, environment
from hiso_pl.ranks.last_words import delay
from hiso_pl.run.folder import CHECKPOINTS_FOLDER, LAST

log = logging.getLogger(__name__)

DEFERRED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DeferredSignals(OrderedCallback):
    """Turns SIGINT, SIGTERM and SIGHUP, unless nohup has it ignored, into a wish to stop; writes the last checkpoint.

    A handler only notes the wish. It travels with the next exchange, so that every rank learns of it in the same
    round. That round is completed, ``checkpoints/last.ckpt`` is written and the run ends without a validation; if one
    was due, it is made up for on resume. The checkpoint is written at a run's normal end as well.

    Ranks whose launcher has been killed, so that nobody is left to end them or start them again, wish so themselves; so
    do runs whose study has. A study may also have a run stop after a round (``HISO_PL_STOP_AFTER``), and that one's
    validation is run before.

    Lightning's own handler is kept out: it runs a collective inside the handler, where another may be under way.

    Attributes:
        interrupted: Whether the run was stopped before its last round.
    """

    position = 80

    def __init__(self) -> None:
        self._handlers: dict[signal.Signals, Any] = {}
        self.interrupted = False
        self._orphaned = False
        self._rounds = -1
        self._until: int | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Installs the handlers for a fit; other stages have Python's own."""
        super().setup(trainer, pl_module, stage)
        leave_signals_alone(trainer)
        if stage != "fit":
            if threading.current_thread() is threading.main_thread():
                early_signals.over()
            return
        self.interrupted = False
        self._rounds, self._until = trainer.fit_loop.epoch_loop.max_steps, environment.stop_after()
        if threading.current_thread() is threading.main_thread():
            alone = trainer.world_size == 1  # of several ranks whoever has started them decides
            first: list[float] = []

            def wish(signum: int, frame: object) -> None:
                federated(pl_module).request_stop()
                name = signal.Signals(signum).name
                if not first and trainer.is_global_zero and environment.BY_LAUNCH not in os.environ:
                    _say(f"{name}: the run ends after its round" + alone * "; once more ends it at once")
                elif first and alone and time.monotonic() - first[0] >= early_signals.AGAIN_S:
                    _say(
                        f"error: ended at once, as {name} came again: what came after the last checkpoint is not saved"
                    )
                    os._exit(128 + signum)
                first.append(time.monotonic())

            heard = [n for n in DEFERRED if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
            self._handlers = {number: signal.signal(number, wish) for number in heard}
            delay.deliver(None)  # to this run, which repeats one that has failed

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends a run that has gone as far as it is to go; a validation that it lacked has been made up for."""
        if self._until is not None and self._until <= trainer.global_step < self._rounds:
            self.interrupted = True
            end_after_this_round(trainer, validate=True)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Wishes to stop if the coming round is the last one asked for, or if who started this rank has gone."""
        if not self._orphaned and environment.orphaned():
            self._orphaned = True
            log.warning("What started this run has been killed: it ends after its round.")
            federated(pl_module).request_stop()
        if self._until is not None and trainer.global_step + 1 == self._until:
            federated(pl_module).request_stop()

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Ends the run here if the ranks have agreed to; a wish in the last round changes nothing."""
        if not federated(pl_module).stop_agreed or trainer.global_step == trainer.fit_loop.epoch_loop.max_steps:
            return
        self.interrupted = True
        end_after_this_round(trainer, validate=trainer.global_step == self._until)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / CHECKPOINTS_FOLDER / LAST, weights_only=False)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the signals back, SIGTERM when the failure has been told if somebody tells it."""
        if delay.asked and signal.SIGTERM in self._handlers:
            signal.signal(signal.SIGTERM, delay.note)
            del self._handlers[signal.SIGTERM]
        self._restore(trainer)

    def _restore(self, trainer: Trainer) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
        if self.interrupted:
            trainer.fit_loop.epoch_loop.max_steps = self._rounds


def _say(text: str) -> None:
    """Says a line at once, within a handler, and not through a stream that may be in the middle of another."""
    with suppress(OSError):
        os.write(2, f"\nhiso-pl: {text}\n".encode())


def interrupted(trainer: Trainer) -> bool:
    """Whether a signal has ended the trainer's run early."""
    return any(callback.interrupted for callback in callbacks_of(trainer, DeferredSignals))
