"""Predictions of all ranks in one file."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from hiso_pl.callbacks.contract import OrderedCallback
from hiso_pl.callbacks.run_folder import write_atomically

log = logging.getLogger(__name__)

PREDICTIONS = "predictions.jsonl"


class PredictionWriter(OrderedCallback):
    """Writes ``predictions.jsonl`` into the run's folder: a line an example, in the order of the split, each once.

    A line holds the example's index, the class predicted, the class it is labelled with, and the score of each class.
    """

    def __init__(self) -> None:
        self._lines: dict[int, dict[str, Any]] = {}

    @override
    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the lines of a batch of this rank."""
        splits = trainer.datamodule.splits  # type: ignore[attr-defined]
        classes = (splits.test or splits.val).classes
        columns: dict[str, Tensor] = outputs
        index, label, prediction, scores = (columns[k].tolist() for k in ("index", "label", "prediction", "scores"))
        for i, truth, guess, logits in zip(index, label, prediction, scores, strict=True):
            self._lines[i] = {
                "index": i,
                "prediction": classes[guess],
                "label": classes[truth],
                "scores": dict(zip(classes, logits, strict=True)),
            }

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Brings the ranks' lines together and writes them on rank 0."""
        parts: list[dict[int, dict[str, Any]]] = [self._lines]
        if trainer.world_size > 1:
            parts = [{}] * trainer.world_size
            dist.all_gather_object(parts, self._lines)
        if trainer.is_global_zero:
            lines = {index: line for part in parts for index, line in part.items()}
            text = "".join(json.dumps(lines[index]) + "\n" for index in sorted(lines))
            path = Path(trainer.default_root_dir) / PREDICTIONS
            write_atomically(path, text)
            log.info("%d predictions written to %s", len(lines), path)
