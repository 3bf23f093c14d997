"""A run's curves, texts, pictures and histograms for the loggers of its trainer."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from hiso_pl.callbacks.boards import BEST, LAST, Board
from hiso_pl.callbacks.client_losses import ClientLosses
from hiso_pl.callbacks.contract import OrderedCallback, federated, optimizer_of
from hiso_pl.callbacks.hyperparameters import chosen, in_reading_order
from hiso_pl.callbacks.loggers import boards_of
from hiso_pl.callbacks.pictures import losses_picture, partition_counts, partition_picture
from hiso_pl.callbacks.privacy_budget import spent_now
from hiso_pl.callbacks.run_folder import config_text
from hiso_pl.callbacks.statistics import HessianLook, scalar_statistics, slot_statistics
from hiso_pl.callbacks.summary import best_with, forwards_with
from hiso_pl.callbacks.validation import is_partial
from hiso_pl.federation.traffic import BYTES_PER_KB
from hiso_pl.zeroth_order.applied import AppliedRecords


class TensorBoardPanels(OrderedCallback):
    """Hands a run to the trainer's loggers, at the number of rounds done; TensorBoard takes all of it.

    By round ``train/loss``, ``scalar/*``, ``time/*``, ``comm/*``, ``cost/forwards``, ``lr``, ``mu`` and what else a
    method has to show; by validation its metrics and the best ones so far (``val_best/*``), against bytes sent as
    well (the paper's way of counting). Before the first round and now and then quantiles of the Hessian
    (``hessian/*``), histograms of it by layer, and one of the clients' last losses. The partition as a picture and
    in the data module's own words; the configuration as text; the options that matter beside last, best and test
    metrics; at the end the clients' losses as a picture. Of these a logger gets what it has a place for; numbers
    reach every one.

    ``time/round_s`` is the time from one round's end to the next's without validations: what data and callbacks
    cost is in it. ``cost/forwards`` are the forward passes of all clients up to the round, a backward pass counted
    as two; those of validations are not in it. Of a resumed run the picture of losses begins at its resume.
    ``privacy/epsilon`` is the largest of a client's.

    Args:
        every_n_rounds: Rounds between two points of the curves.
        hessian_every_n_rounds: Rounds between two looks at the Hessian and the clients' losses; 0 for none.
    """

    position = 60

    def __init__(self, every_n_rounds: int = 1, hessian_every_n_rounds: int = 50) -> None:
        if every_n_rounds < 1:
            raise ValueError(f"every_n_rounds={every_n_rounds} must be at least 1")
        if hessian_every_n_rounds < 0:
            raise ValueError(f"hessian_every_n_rounds={hessian_every_n_rounds} must be at least 0")
        self.every_n_rounds = every_n_rounds
        self.hessian_every_n_rounds = hessian_every_n_rounds
        self._boards: list[Board] | None = None
        self._losses: ClientLosses | None = None
        self._recent: list[float] = []
        self._mark = 0.0
        self._validation_start = 0.0

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        federated(pl_module).loggers_served = True
        if stage == "fit":  # a test after it goes to the same boards
            self._boards, self._losses, self._recent = None, None, []

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        hessian = self._hessian(trainer) if trainer.global_step == 0 else None
        if boards := self._all(trainer):
            clients = getattr(trainer.datamodule, "clients", 0)  # type: ignore[attr-defined]
            if clients and trainer.max_steps > 0:
                self._losses = ClientLosses(clients, trainer.max_steps)
            self._introduce(trainer, pl_module, boards, hessian)
        self._mark = time.perf_counter()

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        now = time.perf_counter()
        round_s, self._mark = now - self._mark, now
        run = federated(pl_module)
        report, boards, done = run.last_round, self._all(trainer), trainer.global_step
        due = self.hessian_every_n_rounds and done % self.hessian_every_n_rounds == 0
        hessian = self._hessian(trainer) if due else None
        if not boards or report is None:
            return
        if report.loss is not None:
            self._recent.append(report.loss)
        if self._losses is not None:
            self._losses.add(report.round, report.clients, report.slot_losses)
        points: dict[str, float] = {}
        if done % self.every_n_rounds == 0 or done == trainer.max_steps:
            points = {
                "scalar/dropped": float(len(report.faults)),
                "time/round_s": round_s,
                "time/probe_s": report.probe_s,
                "time/update_s": report.update_s,
                "comm/paper_kb": run.traffic.paper_kb,
                "comm/protocol_kb": run.traffic.protocol_kb,
                "comm/measured_kb": run.exchange.payload_bytes / BYTES_PER_KB,
                "lr": report.lr,
                **forwards_with(trainer, report),
                **report.figures,
                **spent_now(trainer),
            }
            points |= {
                name: value for name, value in (("train/loss", report.loss), ("mu", report.mu)) if value is not None
            }
            if report.scalars is not None and report.sent is not None and len(report.dropped) < len(report.clients):
                points |= scalar_statistics(report.scalars)
                points |= slot_statistics(report.sent, report.scalars, report.dropped)
        if hessian is not None:
            points |= self._look(trainer, boards, hessian)
        if points:
            for board in boards:
                board.points(points, done)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_start = time.perf_counter()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hands over the metrics, the best ones so far and the bytes sent."""
        self._mark += time.perf_counter() - self._validation_start
        if trainer.state.fn != "fit" or is_partial(trainer):
            return
        run = federated(pl_module)
        found, best = run.last_validation, best_with(trainer, run.last_validation)
        first = {"train/loss": float(np.mean(self._recent))} if self._recent else {}
        self._recent = []
        for board in self._all(trainer):
            if spent := spent_now(trainer):
                board.points(spent, trainer.global_step)
            board.validation(found, best, trainer.global_step, int(run.traffic.paper_bytes))
            board.glance({**first, **found}, trainer.global_step)

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for board in self._all(trainer):
            board.points(federated(pl_module).last_test, trainer.global_step)

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Has the curves on disk up to here: a run that goes on from the checkpoint makes only what follows."""
        for board in self._all(trainer):
            board.save()

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        boards = self._all(trainer)
        if boards and self._losses is not None and np.isfinite(means := self._losses.means()).any():
            picture = losses_picture(means, self._losses.clients, self._losses.rounds)
            for board in boards:
                board.picture("losses by client", picture, trainer.global_step)
        for board in boards:
            board.save()

    def _all(self, trainer: Trainer) -> list[Board]:
        if self._boards is None:  # not before the trainer knows the round it goes on from
            self._boards = boards_of(trainer)
        return self._boards

    def _hessian(self, trainer: Trainer) -> HessianLook | None:
        """A look at the Hessian, where somebody is to see it; ranks that hold it together all look."""
        optimizer = optimizer_of(trainer)
        held = optimizer.held if isinstance(optimizer, AppliedRecords) else None
        if not self.hessian_every_n_rounds or not (held or self._all(trainer)):
            return None
        if isinstance(optimizer, AppliedRecords):
            return HessianLook(optimizer.shown_hessians(), held, optimizer.names)
        return HessianLook(optimizer.tensors())

    def _look(self, trainer: Trainer, boards: list[Board], look: HessianLook) -> dict[str, float]:
        """Hands over histograms of the Hessian and the clients' losses, and returns points."""
        histograms = look.by_layer() | (self._losses.last() if self._losses is not None else {})
        for board in boards:
            board.histograms(histograms, trainer.global_step)
        return look.quantiles()

    def _introduce(
        self, trainer: Trainer, pl_module: LightningModule, boards: list[Board], hessian: HessianLook | None
    ) -> None:
        run = federated(pl_module)
        text, data, done = config_text(trainer), trainer.datamodule, trainer.global_step  # type: ignore[attr-defined]
        splits, ownership = getattr(data, "splits", None), getattr(data, "ownership", None)
        options, validated = chosen(text), run.last_validation
        kinds = [LAST, BEST, *(["test/"] if getattr(splits, "test", None) is not None else [])]
        # of very many TensorBoard shows the first ones
        by_interest = sorted((name.removeprefix(LAST) for name in validated), key=lambda name: name == "loss")
        metrics = [kind + name for name in by_interest for kind in kinds]
        parts = getattr(data, "parts", None)
        sizes = tuple(map(len, parts or ())) if ownership is None else ownership.sizes
        pictures = {}
        shown = not getattr(getattr(run, "method", None), "private", False)  # who owns what is the clients' own affair
        if splits is not None and len(sizes) and shown:
            attribute = getattr(getattr(data, "partition", None), "attribute", "label")
            pictures["partition"] = partition_picture(*partition_counts(splits.train, parts, sizes, attribute), sizes)
        texts = {"config": f"```yaml\n{in_reading_order(text)}\n```"} if text else {}
        if hasattr(data, "describe_clients") and shown:
            texts["partition"] = data.describe_clients()
        points = {} if hessian is None else self._look(trainer, boards, hessian)
        for board in boards:
            board.begin(int(run.traffic.paper_bytes))
            if options:
                board.hyperparameters(options, metrics)
            for name, words in texts.items():
                board.text(name, words, done)
            for name, picture in pictures.items():
                board.picture(name, picture, done)
            if points:
                board.points(points, done)
