"""The parser of a run's options."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from hiso_pl.cli.parser import Parser


class RunParser(Parser, LightningArgumentParser):
    """LightningCLI's parser, which says what it does not understand as all commands do."""

    def add_class_arguments(self, theclass: type, nested_key: str | None = None, **options: Any) -> list[str]:  # type: ignore[override]
        """Adds a class's options; of Trainer's limits 1 is a batch and 1.0 all of them.

        Lightning's own types are unions that typing may hold in the order in which another package has named them.
        """
        if theclass is not Trainer:
            return super().add_class_arguments(theclass, nested_key, **options)
        limits = [f"limit_{split}_batches" for split in ("train", "val", "test", "predict")]
        added = super().add_class_arguments(theclass, nested_key, skip={*limits}, **options)
        for name in limits:
            told = "Share of the batches (float) or their number (int). Null is all of them."
            self.add_argument(f"--{nested_key}.{name}", type=int | float | None, default=None, help=told)
        return added
