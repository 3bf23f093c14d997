"""A run's curves, texts and pictures for TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from typing_extensions import override

from hiso_pl.callbacks.contract import OrderedCallback, federated, optimizer_of
from hiso_pl.callbacks.pictures import partition_picture
from hiso_pl.callbacks.run_folder import config_text
from hiso_pl.callbacks.validation import is_partial
from hiso_pl.federation.partition import label_counts
from hiso_pl.lightning_privates import log_together
from hiso_pl.run.configuration import leaves

SAMPLE = 1 << 20
QUANTILES = {"p01": 0.01, "median": 0.5, "p99": 0.99}


class TensorBoardPanels(OrderedCallback):
    """Logs the curves of a round through the trainer's loggers, at the number of rounds done.

    ``train/loss``, ``scalar/*``, ``time/*``, ``comm/*``, ``lr`` and ``mu`` by round, ``hessian/*`` now and then, the
    validation metrics against bytes sent (the paper's way of counting), the configuration as text, the partition as a
    picture with the data module's own words on its clients and, at the end, hyperparameters with the final metrics.
    ``time/round_s`` is the time from one round's end to the next's without validations: what data and callbacks cost is
    in it.

    Args:
        every_n_rounds: Rounds between two points of the curves.
        hessian_every_n_rounds: Rounds between two looks at the Hessian; 0 for none.
    """

    position = 60

    def __init__(self, every_n_rounds: int = 1, hessian_every_n_rounds: int = 50) -> None:
        if every_n_rounds < 1:
            raise ValueError(f"every_n_rounds={every_n_rounds} must be at least 1")
        if hessian_every_n_rounds < 0:
            raise ValueError(f"hessian_every_n_rounds={hessian_every_n_rounds} must be at least 0")
        self.every_n_rounds = every_n_rounds
        self.hessian_every_n_rounds = hessian_every_n_rounds
        self._mark = 0.0
        self._validation_start = 0.0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._introduce(trainer)
        self._mark = time.perf_counter()

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        now = time.perf_counter()
        round_s, self._mark = now - self._mark, now
        run = federated(pl_module)
        report = run.last_round
        if not trainer.is_global_zero or report is None:
            return
        done = trainer.global_step
        points: dict[str, float] = {}
        if done % self.every_n_rounds == 0 or done == trainer.max_steps:
            points = {
                "scalar/dropped": float(len(report.dropped)),
                "time/round_s": round_s,
                "time/probe_s": report.probe_s,
                "time/update_s": report.update_s,
                "comm/paper_kb": run.traffic.paper_kb,
                "comm/protocol_kb": run.traffic.protocol_kb,
                "comm/measured_kb": run.exchange.payload_bytes / 1024,
                "lr": report.lr,
                "mu": report.mu,
            }
            if report.loss is not None:
                points["train/loss"] = report.loss
                points |= scalar_statistics(report.scalars)
        if self.hessian_every_n_rounds and done % self.hessian_every_n_rounds == 0:
            points |= hessian_statistics([s.value for s in optimizer_of(trainer).tensors() if s.kind == "hessian"])
        if points:
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    log_together(logger, points, done)
                else:
                    logger.log_metrics(points, step=done)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_start = time.perf_counter()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the metrics against the bytes sent so far."""
        self._mark += time.perf_counter() - self._validation_start
        if trainer.state.fn != "fit" or is_partial(trainer) or not trainer.is_global_zero:
            return
        run = federated(pl_module)
        for board in _boards(trainer):
            for name, value in run.last_validation.items():
                tag = f"val_by_paper_bytes/{name.removeprefix('val/')}"
                board.experiment.add_scalar(tag, value, global_step=run.traffic.paper_bytes)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        # under a name of their own, or they would become points of the curves at step 0
        metrics = federated(pl_module).last_validation
        final = {f"final/{name.replace('/', '_')}": value for name, value in metrics.items()}
        parameters = {
            key: value if isinstance(value, (str, int, float, bool)) else str(value)
            for key, value in leaves(yaml.safe_load(config_text(trainer)) or {}).items()
        }
        for board in _boards(trainer):
            if final and parameters:
                board.log_hyperparams(parameters, metrics=final)
            board.save()

    def _introduce(self, trainer: Trainer) -> None:
        text = config_text(trainer)
        data = trainer.datamodule  # type: ignore[attr-defined]
        parts, splits = getattr(data, "parts", None), getattr(data, "splits", None)
        for board in _boards(trainer):
            if text:
                board.experiment.add_text("config", f"```yaml\n{text}\n```", global_step=trainer.global_step)
            if parts is not None and splits is not None:
                classes = splits.train.classes
                counts = label_counts(parts, splits.train.labels, max(1, len(classes)))
                board.experiment.add_image("partition", partition_picture(counts, classes), 0, dataformats="HWC")
            if hasattr(data, "describe_clients"):
                board.experiment.add_text("partition", data.describe_clients(), global_step=0)


def scalar_statistics(scalars: np.ndarray) -> dict[str, float]:
    """How large the aggregated scalars of a round are, shape ``[tau, P]``."""
    values = scalars.astype(np.float64)
    return {
        "scalar/mean_abs": float(np.abs(values).mean()),
        "scalar/std": float(values.std()),
        "scalar/max_abs": float(np.abs(values).max()),
    }


def hessian_statistics(tensors: Sequence[Tensor]) -> dict[str, float]:
    """Smallest and largest element of H where stored, exactly, and quantiles of an evenly spaced, constant sample."""
    tensors = [tensor.detach().reshape(-1) for tensor in tensors if tensor.numel()]
    if not tensors:
        return {}
    stride = max(1, -(-sum(tensor.numel() for tensor in tensors) // SAMPLE))
    sampled, position = [], 0
    for tensor in tensors:
        sampled.append(tensor[-position % stride :: stride].double().cpu())
        position += tensor.numel()
    sample = torch.cat(sampled).sort().values
    points = {
        "hessian/min": min(float(tensor.min()) for tensor in tensors),
        "hessian/max": max(float(tensor.max()) for tensor in tensors),
    }
    return points | {f"hessian/{name}": float(sample[int(q * (len(sample) - 1))]) for name, q in QUANTILES.items()}


def _boards(trainer: Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
