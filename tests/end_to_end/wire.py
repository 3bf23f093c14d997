"""Reads the counters of a network interface from inside a run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


def bytes_on(interface: str) -> int:
    """Bytes that an interface of this network name space has received and sent."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    fields = next(line.split(":")[1].split() for line in lines if line.strip().startswith(f"{interface}:"))
    return int(fields[0]) + int(fields[8])


class WireCounter(Callback):
    """Writes time, the bytes on each interface and the exchange's own count after each round into ``path.RANK``.

    Args:
        path: Where.
        interfaces: The network interfaces.
    """

    def __init__(self, path: str, interfaces: list[str]) -> None:
        self.path, self.interfaces = path, interfaces
        self.seen: list[list[float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        sent = [bytes_on(interface) for interface in self.interfaces]
        self.seen.append([time.monotonic(), pl_module.exchange.payload_bytes, *sent])  # type: ignore[list-item]

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        Path(f"{self.path}.{trainer.global_rank}").write_text(json.dumps(self.seen))
