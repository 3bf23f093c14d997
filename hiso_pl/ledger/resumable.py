"""A checkpoint made from a ledger: for ``fit --ckpt_path`` to go on from, and for ``export``."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from hiso_pl import checkpoint
from hiso_pl.federation.traffic import Traffic
from hiso_pl.ledger.header import Header
from hiso_pl.ledger.reader import LedgerReader
from hiso_pl.zeroth_order import RoundRecord, ZerothOrderOptimizer

REBUILT = "rebuilt"
"""Among a checkpoint's facts: that it comes from a ledger, so that schedules are to be put where they would stand."""


def checkpoint_of(reader: LedgerReader, optimizer: ZerothOrderOptimizer) -> dict[str, Any]:
    """What a checkpoint of the round that a replayed optimizer stands before would hold, as plain data.

    A ledger does not know metrics, times, measured bytes or a schedule's inner state: those are left out, and the
    learning rate is the last record's until the schedule has been put where it would stand by now.

    Args:
        reader: The ledger.
        optimizer: The state, as :func:`~hiso_pl.ledger.replay.replay` rebuilt it.
    """
    header, rounds, traffic = reader.header, optimizer.round, Traffic()
    last: RoundRecord | None = None
    for entry in reader.entries():
        if isinstance(entry, Header):
            header = entry
            continue
        if entry.round >= rounds:
            break
        tau, directions = entry.scalars.shape
        traffic.record(header.clients, entry.cohort, tau, directions)
        last = entry
    state = optimizer.state_dict()
    if last is not None:
        state["param_groups"][0]["lr"] = last.lr
    tensors = zip(optimizer.names, optimizer.parameters, strict=True)
    return {
        "epoch": 0,
        "global_step": rounds,
        "pytorch-lightning_version": metadata.version("lightning"),
        "state_dict": {f"network.{name}": p.detach() for name, p in tensors},
        "optimizer_states": [state],
        "lr_schedulers": [],
        "callbacks": {},
        "loops": {"fit_loop": _loop(rounds)},
        checkpoint.KEY: {
            "format": checkpoint.FORMAT,
            "config": checkpoint.flatten(header.configuration),
            "trainable": {facts.name: list(facts.shape) for facts in header.tensors},
            "frozen": header.frozen_sha256,
            "traffic": traffic.state_dict(),
            "measured_bytes": 0,
            "last_validation": {},
            REBUILT: True,
        },
    }


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint, whole or not at all."""
    part = path.with_name(path.name + ".part")
    torch.save(content, part)
    part.replace(path)


def _loop(rounds: int) -> dict[str, Any]:
    """Lightning's counters after so many rounds."""
    steps = {"ready": rounds, "completed": rounds}
    batches = {**steps, "started": rounds, "processed": rounds}
    return {
        "state_dict": {},
        "epoch_loop.state_dict": {"_batches_that_stepped": rounds},
        "epoch_loop.batch_progress": {"total": batches, "current": dict(batches), "is_last_batch": False},
        "epoch_loop.manual_optimization.optim_step_progress": {"total": steps, "current": dict(steps)},
    }
