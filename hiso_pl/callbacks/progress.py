"""A progress bar that counts rounds."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from typing_extensions import override

from hiso_pl.callbacks.contract import federated

Figures = dict[str, int | str | float | dict[str, float]]

LINES = 20


class RoundProgressBar(TQDMProgressBar):
    """Shows rounds done of all rounds, with loss, last validation metric and KB sent by a client.

    Of the metrics of a validation it is the first that is no loss, as the task names them.

    Without a terminal it prints a line now and then instead, some twenty in a run. Only rank 0 shows anything.

    Args:
        refresh_rate: Rounds between two updates of the bar; 0 hides it.
    """

    def __init__(self, refresh_rate: int = 1) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._lines = False

    @property
    @override
    def sanity_check_description(self) -> str:
        """The first validation is no trial here: it measures the model as it comes."""
        return "Validation"

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._lines = self.is_enabled and not sys.stdout.isatty()
        if self._lines:
            self.disable()

    @override
    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Sets the bar to the rounds done so far, which are not none in a resumed run."""
        bar = self.train_progress_bar
        bar.reset(total=trainer.max_steps if trainer.max_steps > 0 else None)
        bar.initial = bar.n = trainer.global_step
        bar.set_description("Rounds")

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        done, bar = trainer.global_step, self.train_progress_bar
        if self._lines:
            every = max(1, trainer.max_steps // LINES)
            if done % every == 0 or done == trainer.max_steps:
                figures = "  ".join(f"{name} {value}" for name, value in self.get_metrics(trainer, pl_module).items())
                total = f"/{trainer.max_steps}" if trainer.max_steps > 0 else ""
                bar.write(f"round {done}{total}  {figures}", file=sys.stdout)
        elif self._should_update(done, trainer.max_steps) and not bar.disable:
            bar.n = done
            bar.set_postfix(self.get_metrics(trainer, pl_module))

    @override
    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> Figures:
        run = federated(pl_module)
        figures: Figures = {}
        if run.last_round is not None and run.last_round.loss is not None:
            figures["loss"] = f"{run.last_round.loss:.4f}"
        for name, value in run.last_validation.items():
            if not name.endswith("loss"):
                figures[name] = f"{value:.4f}"
                break
        return figures | {"KB": f"{run.traffic.paper_kb:.2f}"}
