"""A checkpoint made from a ledger: for ``fit --ckpt_path`` to go on from, and for ``export``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from hiso_pl.federation.traffic import Traffic
from hiso_pl.ledger.header import Header
from hiso_pl.ledger.reader import LedgerReader
from hiso_pl.ledger.replay import catch_up, check_start, replay
from hiso_pl.run import checkpoint
from hiso_pl.run.checkpoint import Counters, RunFacts
from hiso_pl.run.configuration import as_text
from hiso_pl.run.restored import counters_after
from hiso_pl.run.whole_file import whole_file
from hiso_pl.zeroth_order import Method, RoundRecord, ZerothOrderOptimizer
from hiso_pl.zeroth_order.digest import digest


def checkpoint_of(reader: LedgerReader, optimizer: ZerothOrderOptimizer) -> dict[str, Any]:
    """What a checkpoint of the round that a replayed optimizer stands before would hold, as plain data.

    A ledger does not know metrics, times, measured bytes or a schedule's inner state: those are left out, and the
    learning rate is the last record's until the schedule has been put where it would stand by now. The optimizer is as
    :func:`~hiso_pl.ledger.replay.replay` rebuilt it.
    """
    header, rounds, traffic = reader.header, optimizer.round, Traffic()
    last: RoundRecord | None = None
    for entry in reader.entries():
        if isinstance(entry, Header):
            header = entry
            continue
        if entry.round >= rounds:
            break
        traffic.record(header.clients, entry.cohort, Method.bits_of(header.method, entry, optimizer.method))
        last = entry
    state = optimizer.state_dict()
    if last is not None:
        state["param_groups"][0]["lr"] = last.lr
    return {
        "epoch": 0,
        "global_step": rounds,
        "pytorch-lightning_version": metadata.version("lightning"),
        "state_dict": {f"network.{t.name}": t.value.detach() for t in optimizer.tensors() if t.kind == "x"},
        "optimizer_states": [state],
        "lr_schedulers": [],
        "callbacks": {},
        "loops": {"fit_loop": counters_after(rounds)},
        checkpoint.KEY: checkpoint.facts_as_data(
            RunFacts(
                as_text(header.configuration),
                {facts.name: list(facts.shape) for facts in header.tensors},
                header.frozen_sha256,
            ),
            Counters(traffic.state_dict()),
            digest(optimizer),
            rebuilt=True,
        ),
    }


def go_on(
    reader: LedgerReader, optimizer: ZerothOrderOptimizer, base: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What a checkpoint of the round that a ledger leads to would hold, of a run that is to go on there.

    The optimizer is of the run at round 0, with the initial weights as parameters, which are moved. ``base`` is a
    checkpoint of the run to begin with, which saves applying its rounds and knows its metrics. Ranks that hold the
    network together all call it at the same time, with the same base, and have the state of what is theirs.

    Raises:
        LedgerError: If the ledger is damaged, ends before ``base``, or is of another model or method.
    """
    check_start(optimizer, reader.header)
    changed = reader.survey().headers[-1][0]  # the last round at which options were changed
    applied = reader.rounds
    if base is not None and int(base["global_step"]) >= changed:
        with torch.no_grad():
            for tensor in [tensor for tensor in optimizer.tensors() if tensor.kind == "x"]:
                tensor.value.copy_(base["state_dict"][f"network.{tensor.name}"])
        optimizer.load_state_dict(base["optimizer_states"][0])
        applied = catch_up(optimizer, reader)
    elif changed > 0:
        tensors = dict(zip(optimizer.names, optimizer.parameters, strict=True))
        optimizer = replay(reader.header, reader.entries(), tensors, stages=optimizer.stages)
    else:
        catch_up(optimizer, reader)
    if base is not None and not applied:
        return dict(base)
    content = checkpoint_of(reader, optimizer)
    if base is not None:
        content["callbacks"] = base["callbacks"]
        content[checkpoint.KEY] |= {key: base[checkpoint.KEY][key] for key in ("measured_bytes", "last_validation")}
    return content


def without_state(content: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint without the state that its ledger leads to."""
    groups = content["optimizer_states"][0]["param_groups"]
    return {**content, "state_dict": {}, "optimizer_states": [{"param_groups": groups}]}


def with_state(content: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint with the state of another one of the same round."""
    states = [{**other["optimizer_states"][0], **content["optimizer_states"][0]}]
    return {**content, "state_dict": other["state_dict"], "optimizer_states": states}


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint, whole or not at all."""
    with whole_file(path) as part, part.open("wb") as file:
        torch.save(content, file)
