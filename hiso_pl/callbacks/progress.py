"""A progress bar that counts rounds."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from typing_extensions import override

from hiso_pl.callbacks.contract import federated
from hiso_pl.callbacks.privacy_budget import budget_of
from hiso_pl.callbacks.validation import is_partial

Figures = dict[str, int | str | float | dict[str, float]]

LINES = 20


class RoundProgressBar(TQDMProgressBar):
    """Shows rounds done of all rounds, with loss, last validation metric, KB sent by a client and epsilon spent.

    Of the metrics of a validation the bar shows the first that is no loss, as the task names them. Each validation is
    said when it is done, in a line of its own: the one before the first round too, and the last.

    Without a terminal lines take the bar's place, some twenty in a run. Only rank 0 shows anything.

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
        bar.smoothing = 0.3  # a rate of the last rounds: the first one compiles, and validations take time
        bar.reset(total=trainer.max_steps if trainer.max_steps > 0 else None)
        bar.initial = bar.n = bar.last_print_n = trainer.global_step
        bar.unit = " rounds"
        bar.set_description("Rounds")

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        done, bar = trainer.global_step, self.train_progress_bar
        if self._lines:
            every = max(1, trainer.max_steps // LINES)
            if done % every == 0 or done == trainer.max_steps:
                self._say(trainer, self._of_round(trainer, pl_module))
        elif self._should_update(done, trainer.max_steps) and not bar.disable:
            bar.set_postfix(self.get_metrics(trainer, pl_module), refresh=False)
            bar.update(done - bar.n)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says what was measured, above the bar, which shows it from now on."""
        super().on_validation_end(trainer, pl_module)
        if (self._lines or self.is_enabled) and trainer.state.fn == "fit" and not is_partial(trainer):
            measured = {name: told(value) for name, value in federated(pl_module).last_validation.items()}
            self._say(trainer, {**measured, **_spent(trainer)})

    @override
    def on_validation_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.state.fn == "validate":
            self.val_progress_bar.close()  # the module says next what was measured

    @override
    def on_test_epoch_end(self, *_: Any) -> None:
        self.test_progress_bar.close()

    @override
    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> Figures:
        figures, found = self._of_round(trainer, pl_module), federated(pl_module).last_validation
        shown = next((name for name in found if not name.endswith("loss")), None)
        between: Figures = {} if shown is None else {shown: told(found[shown])}
        return {"loss": figures.pop("loss"), **between, **figures} if "loss" in figures else {**between, **figures}

    def _of_round(self, trainer: Trainer, pl_module: LightningModule) -> Figures:
        run = federated(pl_module)
        loss = None if run.last_round is None else run.last_round.loss
        figures: Figures = {} if loss is None else {"loss": told(loss)}
        return figures | {"KB": f"{run.traffic.paper_kb:.2f}", **_spent(trainer)}

    def _say(self, trainer: Trainer, figures: Figures) -> None:
        total = f"/{trainer.max_steps}" if trainer.max_steps > 0 else ""
        words = (f"round {trainer.global_step}{total}", *(f"{name} {value}" for name, value in figures.items()))
        self.train_progress_bar.write("  ".join(words), file=sys.stdout)


def _spent(trainer: Trainer) -> dict[str, str]:
    """What a private run has spent, when it was last computed."""
    budget = budget_of(trainer)
    return {} if budget is None or budget.epsilon is None else {"epsilon": told(budget.epsilon)}


def told(value: float) -> str:
    """A measured number in a few figures, however large it has become."""
    return f"{value:.4f}" if abs(value) < 1e5 else f"{value:.4g}"
