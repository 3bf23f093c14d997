"""Every rank rebuilds the model by itself; here it is seen to that they all rebuild the same one."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from hiso_pl.callbacks.contract import OrderedCallback, federated, optimizer_of
from hiso_pl.data.module import FederatedDataModule
from hiso_pl.errors import RunError
from hiso_pl.ranks import comparing

OnMismatch = Literal["stop", "repair"]


class OutOfStepError(RunError):
    """Ranks are out of step; raised on all of them.

    Attributes:
        verified: The last round after which they were found in step, in this run; None if there is none.
        repair: Whether the run is to go back there and go on, if it can.
        has_ledger: Whether a ledger leads there.
    """

    def __init__(self, message: str, verified: int | None, repair: bool) -> None:
        super().__init__(message)
        self.verified = verified
        self.repair = repair
        self.has_ledger = False


class InStepCheck(OrderedCallback):
    """Compares the ranks, and stops the run when they differ.

    What they were given has been compared when they met (:mod:`hiso_pl.ranks.gathering`). At the start they compare
    hashes of what each has made of it: partition, data, frozen weights, initial state. Then, every few rounds, they
    compare a 64-bit checksum of each tensor of the state; before each checkpoint and at start and end its digest. It
    comes before all that writes, so a run out of step leaves nothing that is. Ranks that hold a network together are
    also out of step where two of them have other values of what both have.

    Attributes:
        payload_bytes: Bytes this rank handed to the process group for it.

    Args:
        every_n_rounds: Rounds between two comparisons; 0 compares at the start, at checkpoints and at the end only.
        on_mismatch: What happens when the ranks differ: ``stop``, or ``repair``, which takes all of them back to the
            last round after which they were equal, by the initial weights or a checkpoint and the ledger, and goes on
            from there. A second mismatch before the ranks have been equal after a later round stops the run.
    """

    position = 10

    def __init__(self, every_n_rounds: int = 100, on_mismatch: OnMismatch = "stop") -> None:
        if every_n_rounds < 0:
            raise ValueError(f"every_n_rounds={every_n_rounds} must be at least 0")
        if on_mismatch not in get_args(OnMismatch):
            raise ValueError(f"on_mismatch={on_mismatch!r} must be one of {', '.join(get_args(OnMismatch))}")
        self.on_mismatch = on_mismatch
        self.every_n_rounds = every_n_rounds
        self.payload_bytes = 0
        self._compared = False
        self._checked_round: int | None = None
        self._verified: int | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets an earlier run."""
        super().setup(trainer, pl_module, stage)
        self._compared = False
        self._checked_round = self._verified = None
        method = getattr(pl_module, "method", None)
        if self.on_mismatch == "repair" and method is not None and not method.scalar_only:
            raise ValueError(
                f"in_step.on_mismatch=repair must be stop with {type(method).__name__}, which is not scalar-only: "
                "there is no ledger to go back by"
            )

    @override
    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compares what the ranks start from, before the first collective that needs them to agree."""
        self._compare_starts(trainer, pl_module)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compares what the ranks start from, if that has not been done, and the state that they go on from."""
        self._compare_starts(trainer, pl_module)
        self.check(trainer, whole=True)  # of a resumed run, only now is the whole state back

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Compares the states every ``every_n_rounds`` rounds."""
        if self.every_n_rounds and trainer.global_step % self.every_n_rounds == 0:
            self.check(trainer)

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if not trainer.interrupted:  # after an exception the other ranks may be anywhere
            self.check(trainer, whole=True)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.check(trainer, whole=True)

    def check(self, trainer: Trainer, whole: bool = False) -> None:
        """Compares the states of all ranks now: their digests if ``whole``, otherwise checksums, once a round.

        Raises:
            OutOfStepError: If they differ; it names the ranks, the round and the first tensor.
        """
        if trainer.world_size == 1 or (self._checked_round == trainer.global_step and not whole):
            return
        odd, first, payload_bytes = comparing.states(optimizer_of(trainer), _device(trainer), whole)
        self.payload_bytes += payload_bytes
        if odd:
            raise OutOfStepError(
                f"ranks {odd} of {trainer.world_size} are out of step after round {trainer.global_step}: "
                f"the first tensor that differs is {first!r}; nothing has been saved of this round",
                self._verified,
                self.on_mismatch == "repair",
            )
        self._checked_round = self._verified = trainer.global_step

    def _compare_starts(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compares what the ranks start from, once.

        Raises:
            RunError: If they start from different things.
        """
        if trainer.world_size == 1 or self._compared:
            return
        self._compared = True
        data = trainer.datamodule  # type: ignore[attr-defined]
        mine = federated(pl_module).fingerprints()
        if isinstance(data, FederatedDataModule):
            mine |= data.fingerprints()
        problems, payload_bytes = comparing.facts(mine)
        self.payload_bytes += payload_bytes
        if problems:
            raise RunError("the ranks do not start from the same " + "; nor the same ".join(problems))


def _device(trainer: Trainer) -> torch.device:
    """Where a tensor must be to be handed to the process group."""
    return torch.device(getattr(trainer.strategy, "collective_device", "cpu"))
