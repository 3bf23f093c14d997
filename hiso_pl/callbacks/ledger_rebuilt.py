"""Where a ledger leads to, as the checkpoint that a run goes on from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from lightning.pytorch import Trainer

from hiso_pl.ledger import LedgerError, LedgerReader
from hiso_pl.ledger.resumable import go_on, with_state, without_state
from hiso_pl.ledger.same_record import is_of
from hiso_pl.run import checkpoint
from hiso_pl.run.checkpoint import Checked
from hiso_pl.run.folder import LEDGER
from hiso_pl.zeroth_order import Method, RoundRecord, ZerothOrderOptimizer

if TYPE_CHECKING:
    from hiso_pl.module import FederatedModule

log = logging.getLogger(__name__)


class Way(NamedTuple):
    """How a run is rebuilt.

    Attributes:
        ledger: The ledger's bytes.
        path: The checkpoint that it begins with; None for the initial weights.
    """

    ledger: bytes
    path: Path | None


def rebuilt(trainer: Trainer, module: FederatedModule, root: Path) -> Mapping[str, Any]:
    """What a checkpoint of the round that the ledger in a run's folder leads to would hold; all ranks ask together.

    Rank 0 decides; every rank applies the records for itself, from the checkpoint that rank 0 chose if it sees it, or
    else from the initial weights. Ranks that hold the network together see it all or none, and apply what is theirs.

    Raises:
        LedgerError: If the ledger is damaged, or is of another run.
    """
    first, group = trainer.is_global_zero, module.group
    if group is not None:
        module.frozen_sha256()  # all have a part in it, and rank 0 alone compares checkpoints
    way, base, said = _decided(root, module) if first else (None, None, None)
    way, said = trainer.strategy.broadcast((way, said))
    if way is None:
        raise LedgerError(said or "")
    if not first and way.path is not None and way.path.is_file():
        base = checkpoint.read(way.path)
    if group is not None and not all(group.merged({group.stage: base is not None}).values()):
        base = None
    content: Mapping[str, Any] = {}
    with TemporaryDirectory() as folder:
        ledger = root / LEDGER if first else Path(folder) / LEDGER
        if not first:
            ledger.write_bytes(way.ledger)
        try:
            content = go_on(LedgerReader(ledger), _at_start(module), base)
            said = _doubt(root, module, way, content) if first else None
        except (ValueError, OSError) as error:
            said = str(error)
    refused, known = trainer.strategy.broadcast((said, without_state(content) if said is None else {}))
    if said is not None or refused is not None:
        raise LedgerError(refused or said or "")
    return content if first else with_state(known, content)


def _at_start(module: FederatedModule) -> ZerothOrderOptimizer:
    """An optimizer of the run at round 0; the network is not on its device yet, so the kernels are the CPU's."""
    method = replace(cast(Method, module.method), backend="auto")
    return ZerothOrderOptimizer(module.trainable(), method, seed=module.seed, network=module.network, **module.staged)


def _leads_there(reader: LedgerReader, content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's state was moved last by the record that the ledger has of its round."""
    before, _ = reader.around(int(content["global_step"]))
    return is_of(before, RoundRecord.of_data(content["optimizer_states"][0]["param_groups"][0]["record"]))


def _decided(root: Path, module: FederatedModule) -> tuple[Way | None, Checked | None, str | None]:
    """How the run is rebuilt, and the checkpoint that it begins with; or why it cannot be."""
    ledger = root / LEDGER
    try:
        reader = LedgerReader(ledger)
        survey, newest = reader.survey(), checkpoint.newest(root, up_to=reader.rounds)
        if newest is not None and survey.closed_otherwise(
            newest[1]["global_step"], newest[1][checkpoint.KEY]["digest"]
        ):
            log.warning("%s is passed over, as %s was closed with another digest.", newest[0], LEDGER)
            newest = checkpoint.newest(root, up_to=reader.rounds - 1)
        while newest is not None and module.method.private and not _leads_there(reader, newest[1]):
            log.warning("%s is passed over, as its rounds were made again since, with other noise.", newest[0])
            newest = checkpoint.newest(root, up_to=newest[1]["global_step"] - 1)
        path, base = (None, None) if newest is None else newest
        if base is not None:
            checkpoint.compare(base, module.facts(), resuming=False)  # its options are compared once it is restored
        return Way(ledger.read_bytes(), path), base, None
    except (ValueError, OSError) as error:
        return None, None, str(error)


def _doubt(root: Path, module: FederatedModule, way: Way, content: Mapping[str, Any]) -> str | None:
    """What speaks against going on from there; if nothing does, it is said where that is.

    Raises:
        ValueError: If the learning rate's schedule cannot be put there.
    """
    ledger = root / LEDGER
    start, rounds = "the initial weights" if way.path is None else str(way.path), int(content["global_step"])
    if LedgerReader(ledger).survey().closed_otherwise(rounds, content[checkpoint.KEY]["digest"]):
        return f"{ledger} was closed with another digest than it leads to from {start}: move that away"
    if content[checkpoint.KEY]["rebuilt"]:
        module.learning_rate.check_reschedulable(f"{ledger} goes beyond {start}")
    log.warning("Going on after round %d, from %s and %s: rounds are applied, not computed.", rounds, start, LEDGER)
    return None
