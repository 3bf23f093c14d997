"""Where a ledger leads to, as the checkpoint that a run goes on from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hiso_pl.ledger import LedgerError, LedgerReader
from hiso_pl.ledger.resumable import go_on, without_state
from hiso_pl.ledger.same_record import is_of
from hiso_pl.run import checkpoint
from hiso_pl.run.folder import LEDGER
from hiso_pl.zeroth_order import Method, RoundRecord, ZerothOrderOptimizer

if TYPE_CHECKING:
    from hiso_pl.module import FederatedModule

log = logging.getLogger(__name__)


def at_start(module: FederatedModule) -> ZerothOrderOptimizer:
    """An optimizer of the run at round 0; the network is not on its device yet, so the kernels are the CPU's."""
    method = replace(cast(Method, module.method), backend="auto")
    return ZerothOrderOptimizer(module.trainable(), method, seed=module.seed, network=module.network)


def _leads_there(reader: LedgerReader, content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's state was moved last by the record that the ledger has of its round."""
    before, _ = reader.around(int(content["global_step"]))
    return is_of(before, RoundRecord.of_data(content["optimizer_states"][0]["param_groups"][0]["record"]))


def rebuilt(root: Path, module: FederatedModule) -> tuple[tuple[bytes, dict[str, Any], Path | None], dict[str, Any]]:
    """What all ranks are told (the ledger's bytes, the checkpoint without its state, the base), and the checkpoint."""
    ledger = root / LEDGER
    reader = LedgerReader(ledger)
    survey, newest = reader.survey(), checkpoint.newest(root, up_to=reader.rounds)
    if newest is not None and survey.closed_otherwise(newest[1]["global_step"], newest[1][checkpoint.KEY]["digest"]):
        log.warning("%s is passed over, as %s was closed with another digest.", newest[0], LEDGER)
        newest = checkpoint.newest(root, up_to=reader.rounds - 1)
    while newest is not None and module.method.private and not _leads_there(reader, newest[1]):
        log.warning("%s is passed over, as its rounds were made again since, with other noise.", newest[0])
        newest = checkpoint.newest(root, up_to=newest[1]["global_step"] - 1)
    path, base = (None, None) if newest is None else newest
    if base is not None:
        checkpoint.compare(base, module.facts(), resuming=False)  # its options are compared once it is restored
    content = go_on(reader, at_start(module), base)
    start = "the initial weights" if path is None else str(path)
    if survey.closed_otherwise(reader.rounds, content[checkpoint.KEY]["digest"]):
        raise LedgerError(f"{ledger} was closed with another digest than it leads to from {start}: move that away")
    if content[checkpoint.KEY]["rebuilt"]:
        module.learning_rate.check_reschedulable(f"{ledger} goes beyond {start}")
    log.warning(
        "Going on after round %d, from %s and %s: rounds are applied, not computed.", reader.rounds, start, LEDGER
    )
    return (ledger.read_bytes(), without_state(content), path), content
