"""The LightningModule of a federated run: one training step is one round."""

from __future__ import annotations

import logging
from typing import Any, cast

import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from hiso_pl.data.rounds import Round
from hiso_pl.federation.exchange import AllReduceExchange
from hiso_pl.federation.traffic import BYTES_PER_KB, Traffic
from hiso_pl.measuring import Measuring
from hiso_pl.models.task_model import TaskModel
from hiso_pl.run.in_stages import InStages
from hiso_pl.run.learning_rate import LearningRate, SchedulerCallable
from hiso_pl.run.schedules import check_lengths
from hiso_pl.stages import Stages
from hiso_pl.stages.advice import advising
from hiso_pl.zeroth_order.digest import digest
from hiso_pl.zeroth_order.interfaces import MethodBase, RoundOptimizer, new_optimizer
from hiso_pl.zeroth_order.losses import Loss, no_examples
from hiso_pl.zeroth_order.method import Method
from hiso_pl.zeroth_order.precision import cast_frozen
from hiso_pl.zeroth_order.record import RoundReport

log = logging.getLogger(__name__)


class FederatedModule(InStages):
    """Runs a network through rounds, and measures it.

    It holds no algorithm state: x, H and the round counter are the optimizer's, the data of a round the data module's.
    A round, from its data to what is written of it:

    1. The data module draws the cohort of round r, finds out which of its slots are this rank's, and draws their
       minibatches: pure functions of seed, round and local step (:mod:`hiso_pl.data.rounds`).
    2. :meth:`training_step` makes each slot's minibatches a loss, and hands them to the optimizer.
    3. The optimizer's ``step`` probes, transforms, exchanges, aggregates and applies
       (:meth:`hiso_pl.zeroth_order.ZerothOrderOptimizer.step` tells of each); its exchange is the one collective of a
       round (:class:`hiso_pl.federation.AllReduceExchange`), and carries the vote to stop as well.
    4. Traffic is counted, and the learning rate's schedule advances.
    5. The callbacks look at the optimizer's report and record: ranks are compared, the ledger is written, curves are
       drawn, and at its time a checkpoint is saved (:mod:`hiso_pl.callbacks`).

    Args:
        network: The network with its task.
        method: What a round computes: HiSo with a diagonal preconditioner, DeComFL with the identity.
        lr_scheduler: How the learning rate follows the rounds: CosineToEnd is as long as the run, others are torch's,
            stepped once a round; ReduceLROnPlateau follows ``val/loss``, stepped once a validation.
        seed: The run's seed: directions are drawn from it.
        stages: How the network is cut into stages, where no whole displaced copy is to exist, or no whole network on a
            rank; uncut if null. It changes no bit of the result.

    Raises:
        ValueError: If the network cannot be cut so, or the method takes no stages.
    """

    def __init__(
        self,
        network: TaskModel,
        method: MethodBase = Method(),  # noqa: B008 - it is frozen, and the CLI can show its options
        lr_scheduler: SchedulerCallable | None = None,
        seed: int = 0,
        stages: Stages | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # a checkpoint leaves out what never changes; checkpoint.compare is strict instead
        self.network = network
        self.method = method
        self._as_configured = method
        self.learning_rate = LearningRate(method.lr, lr_scheduler)
        self.seed = seed
        method.check_network(network)
        if method.dtype != torch.float32:
            cast_frozen(network, method.dtype)
        self.cut_into(stages)
        self.config, self.change_on_resume, self.changed_on_resume = {}, [], []
        self.exchange = AllReduceExchange()
        self.traffic = Traffic()
        self.last_round: RoundReport | None = None
        self.last_validation = {}
        self.last_test: dict[str, float] = {}
        self.loggers_served = False  # whether a callback hands what is measured to the loggers
        self._measuring = Measuring(network, self.trainable(), method, self.group)
        self._initial_digest = ""

    # What is optimized

    def configure_callbacks(self) -> list[Callback]:
        """Gives schedules that leave their length open that of the run: the first call of a trainer that is attached.

        Returns:
            None of its own.
        """
        rounds = self.trainer.max_steps
        if rounds > 0:
            self.method, self.learning_rate.rounds = self._as_configured.over(rounds), rounds
        return []

    def configure_optimizers(self) -> Any:
        """Builds the optimizer on the device, and the scheduler if there is one.

        Raises:
            ValueError: If nothing is trainable, or a schedule would break the run off or gives what cannot be.
        """
        if not self.trainable():
            raise ValueError(f"model.network={type(self.network).__name__} has no trainable parameter")
        if self.stages is not None:
            self.stages.check_device(self.device)
        self.exchange.device = self.collective_device()
        with advising(self.network, self.method, self.device):
            optimizer: Any = self.new_optimizer(self.exchange)
        schedule = self.learning_rate.schedule_of(optimizer)
        if self.learning_rate.rounds is not None:
            for line in check_lengths(schedule, self.method, self.learning_rate.rounds):
                log.warning("%s", line)
            cohort = getattr(self.trainer.datamodule, "cohort", 1)  # type: ignore[attr-defined]
            self.method.check_rounds(cohort, range(self.learning_rate.rounds))
        return optimizer if schedule is None else {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule}}

    def new_optimizer(self, exchange: AllReduceExchange | None = None) -> Any:
        """An optimizer of the network as configured, at round 0."""
        trainable, seed = self.trainable(), self.seed
        return new_optimizer(self.method, trainable, seed=seed, exchange=exchange, network=self.network, **self.staged)

    @property
    def optimizer(self) -> RoundOptimizer:
        """The optimizer itself, without Lightning's wrapper."""
        return cast(RoundOptimizer, self.optimizers(use_pl_optimizer=False))

    def on_fit_start(self) -> None:
        """Notes what the run starts from."""
        self.network.eval()
        self._initial_digest = digest(self.optimizer)
        if isinstance(self.method, Method) and self.method.privacy is not None:
            if self.exchange.before is None:
                raise ValueError(
                    "model.method.privacy needs hiso_pl.callbacks.PrivacyBudget among the trainer's callbacks"
                )
            log.info("Private at the level of %ss: %r.", self.method.privacy.level, self.method.privacy)
            log.info(
                "Its noise is drawn anew each time, so no other run gives these bits, and a replay of its ledger does."
            )
            sizes = getattr(getattr(self.trainer.datamodule, "ownership", None), "sizes", ())  # type: ignore[attr-defined]
            for line in self.method.privacy.doubts(sizes):
                log.warning("%s", line)

    def on_train_end(self) -> None:
        """Leaves the network at the x that the last round led to."""
        self.optimizer.complete()

    # A round

    def training_step(self, batch: Round, batch_idx: int) -> None:
        """Runs one round.

        Raises:
            RuntimeError: If the data is of another round than the state.
            ValueError: If the data is for another number of local steps.
        """
        optimizer = self.optimizer
        if batch.index != optimizer.round:
            raise RuntimeError(f"data of round {batch.index} given, round {optimizer.round} comes next")
        if batch.local_steps != self.method.local_steps:
            raise ValueError(
                f"the data are for local_steps={batch.local_steps}, the method takes {self.method.local_steps}: "
                "hand it over by data.take(facts_of(module)) before the trainer starts"
            )
        losses = [self._loss_of(minibatches) for minibatches in batch.batches]
        # through Lightning's wrapper, exactly once a round: its count of steps is the trainer's global_step
        with advising(self.network, self.method, self.device):
            self.optimizers().step(losses=losses, slots=batch.slots)  # type: ignore[union-attr, call-arg]
        assert optimizer.report is not None
        self.last_round = report = optimizer.report
        if self.group is not None:
            sent = {"comm/stages_kb": self.group.bytes / BYTES_PER_KB}
            self.last_round = report._replace(figures={**report.figures, **sent})
        clients = batch.slots.population or batch.slots.size
        self.traffic.record(clients, batch.slots.size, self.last_round.bits)
        scheduler = self.lr_schedulers()
        if scheduler is not None and not isinstance(scheduler, (list, ReduceLROnPlateau)):
            scheduler.step()

    def _loss_of(self, minibatches: list[dict[str, Tensor]]) -> Loss:
        if not self.method.per_example:
            return lambda k: self.network.loss(minibatches[k])
        return (lambda k: self.network.example_losses(minibatches[k])) if minibatches[0] else no_examples

    def request_stop(self) -> None:
        """Asks all ranks to stop after the coming exchange."""
        self.exchange.stop_requested = True

    @property
    def stop_agreed(self) -> bool:
        """Whether the ranks agreed in the last exchange to stop."""
        return self.exchange.stop_agreed

    # Measuring

    def on_validation_epoch_start(self) -> None:
        """Begins to measure the validation split, which its loader brings."""
        self._measuring.begin(self.trainer.val_dataloaders.dataset.examples, self.uncut)  # type: ignore[union-attr]

    def on_test_epoch_start(self) -> None:
        """Begins to measure the test split."""
        self._measuring.begin(self.trainer.test_dataloaders.dataset.examples, self.uncut)  # type: ignore[union-attr]

    def on_predict_epoch_start(self) -> None:
        """Begins to predict a split."""
        self._measuring.begin(self.trainer.predict_dataloaders.dataset.examples, self.uncut)  # type: ignore[union-attr]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Evaluates one batch, formed globally and dealt whole to this rank."""
        self._measuring.add(batch, self.optimizer if self.trainer.state.fn == "fit" else None)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Combines the ranks' measurements into the metrics of the split."""
        self.last_validation = metrics = self._measuring.metrics("val", self.collective_device())
        self._tell(metrics)
        if self.trainer.sanity_checking:
            return  # the measurement before round 0: Lightning's log calls do nothing here
        self.log_dict(metrics, logger=False)  # for those that monitor a metric
        scheduler = self.lr_schedulers() if self.trainer.state.fn == "fit" else None
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(metrics["val/loss"])

    def on_test_epoch_end(self) -> None:
        """Combines the ranks' measurements into the metrics of the split."""
        self.last_test = self._measuring.metrics("test", self.collective_device())
        self.log_dict(self.last_test, logger=False)
        self._tell(self.last_test)

    def _tell(self, metrics: dict[str, float]) -> None:
        """Writes what a measurement gave, at the number of rounds done; where no progress bar shows it, says it."""
        for logger in [] if self.loggers_served else self.trainer.loggers:
            logger.log_metrics(metrics, step=self.trainer.global_step)
        if self.trainer.is_global_zero and self.trainer.state.fn != "fit":
            log.info("%s", "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> list[dict[str, Any]]:
        """What is predicted of each example of one batch, as plain values."""
        return self._measuring.predictions(batch)
