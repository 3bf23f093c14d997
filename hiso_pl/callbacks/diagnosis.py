"""A run diagnosed as it goes: curves of what explains it, and a picture."""

from __future__ import annotations

import logging
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from hiso_pl.callbacks.contract import OrderedCallback, federated, group_of, optimizer_of
from hiso_pl.callbacks.loggers import boards_of
from hiso_pl.data.module import FederatedDataModule
from hiso_pl.errors import RunError
from hiso_pl.federation.cohort import resolve_hosting

log = logging.getLogger(__name__)


class DiagnosisPanels(OrderedCallback):
    """Diagnoses the run before its first round and every n rounds, as ``hiso-pl diagnose`` does afterwards.

    Every logger gets the numbers (``diagnose/*``), and those that have a place for it the picture. Rank 0 computes, by
    backpropagation, while the others wait in their next exchange, for the strategy's ``timeout_s`` at most. Minibatches
    are addressed as the run addresses them and random vectors have a generator of their own, so that the run is the
    same to the bit. A look whose numbers are not finite, or for which memory runs out, is left out, and that is said.

    Args:
        every_n_rounds: Rounds between two looks.
        clients: Clients whose minibatches are taken, those that a cohort of so many in that round has. If null, all.
        batches: Minibatches of each client.
        probes: Random vectors by which traces and diagonals are estimated.
        eigenvalues: How many eigenvalues of the Hessian are found, from both ends; 0 leaves them out.
        exact: Whether the Hessian is computed whole, and not estimated by the probes; if null, where it is small.
    """

    position = 65

    def __init__(
        self,
        every_n_rounds: int = 500,
        clients: int | None = None,
        batches: int = 2,
        probes: int = 8,
        eigenvalues: int = 2,
        exact: bool | None = False,
    ) -> None:
        least = {"every_n_rounds": 1, "clients": 1, "batches": 2, "probes": 4}
        given = dict(zip(least, (every_n_rounds, clients, batches, probes), strict=True))
        for name, lowest in least.items():
            value = given[name]
            if value is not None and value < lowest:
                raise ValueError(f"{name}={value} must be at least {lowest}")
        if eigenvalues < 0 or eigenvalues == 1:
            raise ValueError(f"eigenvalues={eigenvalues} must be 0, or at least 2: some of each end")
        self.every_n_rounds = every_n_rounds
        self.clients = clients
        self.batches = batches
        self.probes = probes
        self.eigenvalues = eigenvalues
        self.exact = exact

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a run whose clients' examples rank 0 has no business to look at.

        Raises:
            ValueError: If it is one.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        if group_of(pl_module) is not None:
            raise ValueError(
                f"{type(self).__name__} looks at a whole network on rank 0, which model.stages.on=ranks divides: leave "
                "it out, or run `hiso-pl diagnose` afterwards"
            )
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, FederatedDataModule):
            raise ValueError(f"{type(self).__name__} needs a FederatedDataModule, whose clients it looks at")
        method = federated(pl_module).method
        if method.private:
            raise ValueError(
                f"{type(self).__name__} shows gradients of clients' examples, which model.method.privacy keeps with "
                "them: leave it out"
            )
        ranks = trainer.world_size
        if ranks > 1 and resolve_hosting(data.hosting, data.clients, ranks) == "fixed":
            raise ValueError(
                f"{type(self).__name__} looks at all clients' examples on rank 0, which hosting=fixed keeps from it: "
                "set data.hosting to dealt, start fewer ranks, or run `hiso-pl diagnose` afterwards"
            )
        from hiso_pl.diagnose.minibatches import check_clients  # scipy comes with it

        check_clients(self.clients, data.clients)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses what cannot fit, and looks at the start; a resumed run has looked there.

        Raises:
            ValueError: If no whole network is on the device.
            RunError: If it cannot.
        """
        stages = federated(pl_module).stages
        if stages is not None and stages.carries(pl_module.device):
            raise ValueError(
                f"{type(self).__name__} looks at a whole network on its device, which model.stages.on=host brings "
                "there in stages: leave it out, or run `hiso-pl diagnose` afterwards"
            )
        if not trainer.is_global_zero:
            return
        from hiso_pl.diagnose.looking import check_memory  # SciPy and pandas come with it

        elements = sum(p.numel() for _, p in federated(pl_module).trainable())
        check_memory(elements, bool(self.exact), pl_module.device)
        if trainer.global_step == 0:
            self._look(trainer, pl_module)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.is_global_zero and trainer.global_step % self.every_n_rounds == 0:
            self._look(trainer, pl_module)

    def _look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from hiso_pl.diagnose.looking import Asked, look
        from hiso_pl.diagnose.pictures import overview, pixels_of

        boards, done, run = boards_of(trainer), trainer.global_step, federated(pl_module)
        if not boards:
            return
        data, optimizer = trainer.datamodule, optimizer_of(trainer)  # type: ignore[attr-defined]
        optimizer.complete()
        asked = Asked(self.clients, self.batches, self.probes, self.eigenvalues, self.exact)
        try:
            found, _ = look(run, data, optimizer, done, asked)
        except RunError as error:
            log.warning("After round %d: %s. The run goes on without it.", done, error)
            return
        points = {f"diagnose/{name}": value for name, value in {**found.whole, **found.quality}.items()}
        picture = pixels_of(overview(found, f"after round {done}"))
        for board in boards:
            board.points(points, done)
            board.picture("diagnose", picture, done)
