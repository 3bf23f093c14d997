"""A run's ledger, written as the run goes; and a run that goes on from its ledger."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from hiso_pl.callbacks.contract import OrderedCallback, federated, group_of, optimizer_of
from hiso_pl.callbacks.in_step import OutOfStepError
from hiso_pl.callbacks.ledger_rebuilt import rebuilt
from hiso_pl.callbacks.run_folder import config_text
from hiso_pl.callbacks.signals import interrupted
from hiso_pl.ledger import Header, LedgerError, LedgerWriter, header_of, stored_path
from hiso_pl.ledger.carried_on import copy_records, ledger_of
from hiso_pl.ledger.header_of_run import say_what_replays
from hiso_pl.run import lock, versions
from hiso_pl.run.folder import CONFIG, LEDGER
from hiso_pl.run.start import Start
from hiso_pl.stages.offload import Offload
from hiso_pl.zeroth_order import Method
from hiso_pl.zeroth_order.digest import digest
from hiso_pl.zeroth_order.points import is_absent
from hiso_pl.zeroth_order.tensors import NotFiniteError

if TYPE_CHECKING:
    from hiso_pl.module import FederatedModule

log = logging.getLogger(__name__)

WITHOUT = "--ledger.enabled false goes on without one"


class RoundLedger(OrderedCallback):
    """Writes ``rounds.ledger`` on rank 0: a record a round, from which the run can be rebuilt and checked.

    A record is handed to the operating system before the next round begins, so it outlives the process. A run that goes
    on from a checkpoint older than its ledger computes rounds again, and what it gets must equal what is there; of a
    private run, whose noise is drawn anew, later records are cut off instead. With ``--ckpt_path ledger`` they are not
    computed but applied: the newest checkpoint that can be read, or the initial weights, and the records that follow.

    Attributes:
        kept: Whether this run keeps a ledger; the same on all ranks.
        start: Where the run goes on from; set by the program.

    Args:
        enabled: Whether to keep one. If null, where the method is scalar-only: of others a few numbers do not tell a
            round.
        sync_every_n_rounds: Rounds between two waits for the disk, so that records outlive the machine too; 0 waits at
            checkpoints and at the end only.
    """

    position = 15  # ranks out of step write nothing, and a refusal comes before the folder's configuration is replaced

    def __init__(self, enabled: bool | None = None, sync_every_n_rounds: int = 10) -> None:
        if sync_every_n_rounds < 0:
            raise ValueError(f"sync_every_n_rounds={sync_every_n_rounds} must be at least 0")
        self.enabled = enabled
        self.sync_every_n_rounds = sync_every_n_rounds
        self.kept = self._keeps = False
        self.start: Start | None = None
        self._header: Header | None = None
        self._initial: dict[str, Tensor] = {}
        self._writer: LedgerWriter | None = None
        self._held = False

    # The start

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Describes the run, whose weights are still the initial ones; makes a checkpoint of the ledger if asked to.

        Raises:
            ValueError: If the run cannot go on from the ledger.
        """
        super().setup(trainer, pl_module, stage)
        self.kept, self._writer = False, None
        if stage != "fit":
            return
        module = federated(pl_module)
        self._keeps = self._is_to_keep(module)
        if self._keeps:
            self._describe(trainer, module)
        if self.start is not None and self.start.kind == "ledger":  # Lightning asks for it once callbacks are set up
            self.start.content = rebuilt(trainer, module, self.start.root)

    def _describe(self, trainer: Trainer, module: FederatedModule) -> None:
        """Makes the header, and keeps of the initial weights what is to be stored beside the ledger."""
        group = group_of(module)
        if group is None:
            if trainer.is_global_zero:
                self._header = _header(trainer, module)
                stored = {facts.name for facts in self._header.stored}
                # a copy, as the weights are not the initial ones any more when the ledger is begun
                self._initial = {name: p.detach().clone() for name, p in module.trainable() if name in stored}
            return
        # all ranks have a part in what is said of the weights, and in bringing them to the one that writes
        module.settle()
        hashes = group.sha256_of(module.trainable())
        module.frozen_sha256()
        self._header = _header(trainer, module, hashes) if trainer.is_global_zero else None
        stored = {facts.name for facts in self._header.stored} if self._header is not None else set()
        stored, scratch = trainer.strategy.broadcast(stored), Offload(trainer.default_root_dir)
        here = [(name, p.detach()) for name, p in module.trainable() if name in stored and not is_absent(p)]
        self._initial = {name: scratch.take(values) for name, values in group.ways.brought(here, Tensor.detach)}

    def _is_to_keep(self, module: FederatedModule) -> bool:
        """Whether the run is to have one.

        Raises:
            ValueError: If it is asked for, and cannot be had.
        """
        method = module.method
        if method.scalar_only:
            return self.enabled is not False
        why = f"{type(method).__name__} is not scalar-only, and its rounds have no records"
        if self.enabled:
            raise ValueError(f"ledger.enabled=true must be false or null: {why}")
        if self.enabled is None:
            log.info("This run keeps no ledger, as %s: it goes on from checkpoints, and cannot be replayed.", why)
        return False

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins the ledger, or opens that of the run that goes on.

        Raises:
            LedgerError: If there is one that this run cannot go on writing.
        """
        if not self._keeps:
            return
        said, module = None, federated(pl_module)
        state = digest(optimizer_of(trainer)) if trainer.is_global_zero or group_of(module) is not None else ""
        if trainer.is_global_zero:
            try:
                self._held = lock.hold(trainer.default_root_dir) or self._held
                self._writer = self._open(trainer, module, state)
            except lock.InUseError as error:
                said = str(error)
            except LedgerError as error:
                said = f"{error}; {WITHOUT}"
            except OSError as error:
                said = f"the ledger cannot be written: {error}; {WITHOUT}"
        said, self.kept = trainer.strategy.broadcast((said, self._writer is not None))
        self._initial = {}
        if said is not None:
            raise LedgerError(said)
        if self._writer is not None and self._header is not None:
            named = Path(trainer.default_root_dir) / CONFIG if config_text(trainer) else Path("CONFIG")
            say_what_replays(self._header, Path(trainer.default_root_dir) / LEDGER, named)

    def _open(self, trainer: Trainer, module: FederatedModule, state: str) -> LedgerWriter | None:
        path, round, header = Path(trainer.default_root_dir) / LEDGER, trainer.global_step, self._header
        assert header is not None
        if not path.exists() and round > 0:
            source = ledger_of(Path(str(trainer.ckpt_path)))
            if source is None:
                log.warning(
                    "This run keeps no ledger and cannot be replayed: its first %d rounds are in none, as %s has none.",
                    round,
                    trainer.ckpt_path,
                )
                return None
            copy_records(source, path, round)
            try:
                return LedgerWriter.resume(path, header, round, bool(module.changed_on_resume), state)
            except (LedgerError, OSError):
                for copied in (path, stored_path(path)):  # a refused start leaves nothing behind
                    copied.unlink(missing_ok=True)
                raise
        if path.exists():
            anew = optimizer_of(trainer).record if module.method.private else None
            return LedgerWriter.resume(path, header, round, bool(module.changed_on_resume), state, anew)
        return LedgerWriter(path, header, self._initial)

    # The rounds

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Writes the record of the round, or compares it with the one that is there.

        Raises:
            LedgerError: If a round that was computed again gave something else.
            OSError: If it cannot be written.
        """
        if self._writer is None:
            return
        record = optimizer_of(trainer).record
        assert record is not None
        try:
            self._writer.append(record)
        except LedgerError as error:
            raise LedgerError(f"{error}; --ckpt_path ledger goes on from what is there") from error
        if self.sync_every_n_rounds and trainer.global_step % self.sync_every_n_rounds == 0:
            self._writer.sync()

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Sees to it that the disk has all records of a checkpoint's rounds before it has the checkpoint."""
        if self._writer is not None:
            self._writer.sync()

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the ledger, with the digest of the final state unless the run was interrupted."""
        if self._writer is None and (not self._keeps or group_of(pl_module) is None):
            return
        state = None if interrupted(trainer) else digest(optimizer_of(trainer))
        if self._writer is not None:
            self._writer.close(state)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves the records of rounds that the ranks had gone through in step, and whose update is finite."""
        self._initial, upto = {}, None
        try:
            if isinstance(exception, OutOfStepError):
                exception.has_ledger, upto = self.kept, exception.verified
            elif isinstance(exception, NotFiniteError):  # its record is there if its update was left to the next round
                upto = exception.round
            if self._writer is not None and upto is not None and upto < self._writer.round:
                self._writer.cut_back(upto)
        finally:
            self._end(trainer)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end(trainer)

    def _end(self, trainer: Trainer) -> None:
        """Ends the writing, and lets go of a folder that nobody has taken before."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        if self._held:
            lock.release(trainer.default_root_dir)
            self._held = False


def _header(trainer: Trainer, module: FederatedModule, hashes: Sequence[str] | None = None) -> Header:
    data = trainer.datamodule  # type: ignore[attr-defined]
    identity = module.network.weights_identity()
    return header_of(
        [(name, p.detach()) for name, p in module.trainable()],
        cast(Method, module.method),
        seed=module.seed,
        clients=data.clients,
        cohort=data.cohort,
        frozen_sha256=module.frozen_sha256(),
        configuration=module.config,
        versions=versions.package_versions(),
        weights=identity.get("name"),
        revision=identity.get("revision"),
        hashes=hashes,
    )
