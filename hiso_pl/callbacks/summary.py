"""A run in one small file."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from hiso_pl.callbacks.attending import attendance_of
from hiso_pl.callbacks.contract import OrderedCallback, callbacks_of, federated, group_of, optimizer_of
from hiso_pl.callbacks.hostile import attack_of
from hiso_pl.callbacks.participation import ParticipationError, dropped_slots
from hiso_pl.callbacks.privacy_budget import budget_of
from hiso_pl.callbacks.signals import interrupted
from hiso_pl.callbacks.validation import is_partial
from hiso_pl.errors import one_line
from hiso_pl.run import versions
from hiso_pl.run.folder import BETTER_LOW, SUMMARY, json_text, write_atomically
from hiso_pl.run.forwards import BACKWARD, FORWARDS
from hiso_pl.zeroth_order.digest import digest
from hiso_pl.zeroth_order.record import RoundReport

log = logging.getLogger(__name__)


class RunSummary(OrderedCallback):
    """Follows metrics, time and forward passes, and writes ``summary.json`` on rank 0 at the end.

    It is written after an interrupt as well, and what it counts goes on over a resume. A metric's first value is that
    of the model as it came, before any round. The best is the lowest of a loss, error or perplexity and the highest of
    anything else. ``seconds`` is the time from a run's start to its end, ``forwards_per_second`` is of all ranks and
    leaves the time of validations out. ``dropped_slots`` is how often a client was left out because its losses were not
    finite, ``attack`` is there where hostile clients were simulated, ``privacy`` is what a private run has spent. Where
    absence is simulated, ``absent_slots`` is how often a client did not answer, ``catch_up_kb`` what clients fetched of
    rounds they missed, averaged over all, and ``simulated_s`` the simulated clock. Of a run that has ended because it
    would only fail again, as nothing of it is finite any more, ``stopped`` says why.

    Attributes:
        metrics: Of each metric the first, last and best value.
        forwards: Forward passes of all clients so far.
    """

    position = 90

    def __init__(self) -> None:
        self.metrics: dict[str, dict[str, float]] = {}
        self._seconds = 0.0
        self._validation_seconds = 0.0
        self.forwards = 0
        self._since: float | None = None
        self._validation_since: float | None = None
        self._written: dict[str, Any] | None = None

    @property
    def seconds(self) -> float:
        """Seconds of the run so far, earlier parts of a resumed run included."""
        return self._seconds + (time.monotonic() - self._since if self._since is not None else 0.0)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.monotonic()

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        report = federated(pl_module).last_round
        if report is not None:
            self.forwards += report.forwards

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_since = time.monotonic()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._validation_since is not None and trainer.state.fn == TrainerFn.FITTING:
            self._validation_seconds += time.monotonic() - self._validation_since
        if not is_partial(trainer):
            self.record(federated(pl_module).last_validation)

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the metrics of a test, and adds them to the summary of the fit before it."""
        self.record(federated(pl_module).last_test)
        if self._written is not None:
            self._write(trainer, self._written | {"metrics": self.metrics})

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero or group_of(pl_module) is not None:  # whose digest all ranks have a part in
            self._write(trainer, self._summary(trainer, pl_module))

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves the summary of a run that has diverged, so that whoever compares runs need not try it again."""
        # of ranks that hold a network together only those that are in step could find out its digest
        alone = group_of(pl_module) is None
        if isinstance(exception, ParticipationError) and trainer.is_global_zero and self._written is None and alone:
            told = {"interrupted": True, "stopped": one_line(exception)}
            self._write(trainer, self._summary(trainer, pl_module) | told)

    def _summary(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        run, data, optimizer = federated(pl_module), trainer.datamodule, optimizer_of(trainer)  # type: ignore[attr-defined]
        sizes = [state.value.numel() for state in optimizer.tensors() if state.kind == "x"]
        if group_of(pl_module) is not None:  # of which only some are here
            sizes = [p.numel() for _, p in run.trainable()]
        rounds_seconds, budget = self.seconds - self._validation_seconds, budget_of(trainer)
        return {
            "rounds": trainer.global_step,
            "clients": getattr(data, "clients", None),
            "cohort": getattr(data, "cohort", None),
            "ranks": trainer.world_size,
            "parameters": sum(sizes),
            "metrics": self.metrics,
            "comm": {
                "paper_kb": run.traffic.paper_kb,
                "protocol_kb": run.traffic.protocol_kb,
                "measured_kb": run.exchange.payload_bytes / 1024,
            },
            "seconds": self.seconds,
            "forwards_per_second": self.forwards / rounds_seconds if rounds_seconds > 0 else 0.0,
            "dropped_slots": dropped_slots(trainer),
            **attack_of(trainer),
            **attendance_of(trainer),
            "digest": digest(optimizer),
            "versions": versions.package_versions(),
            "interrupted": interrupted(trainer),
            **({} if budget is None else {"privacy": budget.told()}),
        }

    def record(self, found: Mapping[str, float]) -> None:
        """Takes one measurement of each metric by its full name."""
        for name, value in found.items():
            value = float(value)
            entry = self.metrics.setdefault(name, {"first": value, "last": value, "best": value})
            entry["last"] = value
            if math.isnan(entry["best"]) or _better(name, value, entry["best"]):
                entry["best"] = value

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "metrics": {name: dict(entry) for name, entry in self.metrics.items()},
            "seconds": self.seconds,
            "validation_seconds": self._validation_seconds,
            "forwards": self.forwards,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, entry in state_dict["metrics"].items():
            known = isinstance(entry, dict) and set(entry) == {"first", "last", "best"}
            if not known or not all(type(value) in (int, float) for value in entry.values()):
                raise ValueError(f"the checkpoint is damaged: metrics of RunSummary must hold numbers of {name}")
        self.metrics = {name: dict(entry) for name, entry in state_dict["metrics"].items()}
        self._seconds = float(state_dict["seconds"])
        self._validation_seconds = float(state_dict["validation_seconds"])
        self.forwards = int(state_dict["forwards"])

    def _write(self, trainer: Trainer, summary: dict[str, Any]) -> None:
        self._written = summary
        if trainer.is_global_zero:
            write_atomically(Path(trainer.default_root_dir) / SUMMARY, json_text(summary, indent=2) + "\n")


def forwards_with(trainer: Trainer, report: RoundReport) -> dict[str, float]:
    """Forward passes of all clients so far, a round included that the summary is yet to take, as a curve's point.

    A backward pass counts as two of them; a method has as many to a forward in every round. Without a summary nobody
    has counted.
    """
    summary = next(iter(callbacks_of(trainer, RunSummary)), None)
    if summary is None or not report.forwards:
        return {}
    total = summary.forwards + report.forwards
    return {FORWARDS: float(total + BACKWARD * total * report.backwards // report.forwards)}


def best_with(trainer: Trainer, found: Mapping[str, float]) -> dict[str, float]:
    """The best of each metric so far, a measurement included that the summary is yet to take."""
    known = {name: entry["best"] for run in callbacks_of(trainer, RunSummary) for name, entry in run.metrics.items()}
    return {
        name: known[name] if name in known and _better(name, known[name], value) else value
        for name, value in found.items()
    }


def _better(name: str, value: float, best: float) -> bool:
    return value < best if name.endswith(BETTER_LOW) else value > best
