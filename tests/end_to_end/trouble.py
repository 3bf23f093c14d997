"""What befalls one rank of a run in the middle of a forward pass, put into it by a callback."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class InForward(Callback):
    """Lets one rank get into trouble in a forward pass of a round, and notes when and in which process.

    Args:
        path: Where ``PROCESS TIME`` is noted.
        rank: The rank.
        round: The round, counted from 1.
        kind: What happens: hang, hang in validation (in the one after the round), stop, kill, memory of the GPU, bug.
    """

    def __init__(self, path: str, rank: int, round: int, kind: str) -> None:
        self.path, self.rank, self.round, self.kind = path, rank, round, kind

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if (trainer.global_rank, trainer.global_step) != (self.rank, self.round - 1):
            return
        if self.kind != "hang in validation":
            pl_module.network.loss = lambda batch: self._trouble()

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if self.kind == "hang in validation" and (trainer.global_rank, trainer.global_step) == (self.rank, self.round):
            self._trouble()

    def _trouble(self) -> None:
        Path(self.path).write_text(f"{os.getpid()} {time.time()}")
        if self.kind in ("stop", "kill"):
            os.kill(os.getpid(), signal.SIGSTOP if self.kind == "stop" else signal.SIGKILL)
        elif self.kind == "memory of the GPU":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        elif self.kind == "bug":
            raise IndexError("list index out of range")
        time.sleep(1000.0)
        raise AssertionError("it should have been ended by now")
