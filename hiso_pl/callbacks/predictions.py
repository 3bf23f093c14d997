"""Predictions of all ranks in one file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from hiso_pl.callbacks.contract import OrderedCallback
from hiso_pl.run.folder import PREDICTIONS, json_text, write_atomically

log = logging.getLogger(__name__)

Line = dict[str, Any]


class PredictionWriter(OrderedCallback):
    """Writes ``predictions.jsonl`` into the run's folder: a line an example, in the order of the split, each once.

    A line holds the example's index, its input as text where it has one, and what the task tells of it: the class
    predicted, the class it is labelled with and the score of each class, or the text generated, the references and
    its metrics. A number that is not finite is null.
    """

    def __init__(self) -> None:
        self._lines: dict[int, Line] = {}

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._lines = {}

    @override
    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self._lines |= {line["index"]: line for line in outputs}

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Brings the ranks' lines together on rank 0, which writes them."""
        parts: list[dict[int, Line] | None] | None = [self._lines]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size if trainer.is_global_zero else None
            dist.gather_object(self._lines, parts)
        if parts is not None:
            lines = {index: line for part in parts if part is not None for index, line in part.items()}
            path = Path(trainer.default_root_dir) / PREDICTIONS
            write_atomically(path, "".join(json_text(lines[index]) + "\n" for index in sorted(lines)))
            log.info("%d predictions written to %s", len(lines), path)
