"""The LightningModule of a federated run: one training step is one round."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
import yaml
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from hiso_pl.data.examples import ExampleSet
from hiso_pl.data.rounds import Round
from hiso_pl.federation.exchange import AllReduceExchange
from hiso_pl.federation.traffic import Traffic
from hiso_pl.ledger.resumable import REBUILT
from hiso_pl.measuring import SplitTable, prediction_lines
from hiso_pl.models.task_model import Evaluation, TaskModel
from hiso_pl.run import checkpoint, versions
from hiso_pl.zeroth_order import ZerothOrderOptimizer
from hiso_pl.zeroth_order.digest import digest
from hiso_pl.zeroth_order.interfaces import LocalExchange
from hiso_pl.zeroth_order.losses import Loss
from hiso_pl.zeroth_order.options import DTYPES
from hiso_pl.zeroth_order.precision import CastView, cast_frozen
from hiso_pl.zeroth_order.record import RoundReport
from hiso_pl.zeroth_order.watching import check_compiled

log = logging.getLogger(__name__)

OptimizerCallable = Callable[[Iterable[Any]], ZerothOrderOptimizer]
SchedulerCallable = Callable[[torch.optim.Optimizer], LRScheduler | ReduceLROnPlateau]


class FederatedModule(LightningModule):
    """Runs a network through rounds, and measures it.

    It holds no algorithm state: x, H and the round counter are the optimizer's, the data of a round the data module's.

    Args:
        network: The network with its task.
        optimizer: The method: HiSo with a diagonal preconditioner, DeComFL with the identity.
        lr_scheduler: How the learning rate follows the rounds, one of torch's schedulers, stepped once a round;
            ReduceLROnPlateau follows ``val/loss``, stepped once a validation.
        seed: The run's seed: directions are drawn from it.
    """

    def __init__(
        self,
        network: TaskModel,
        optimizer: OptimizerCallable = ZerothOrderOptimizer,
        lr_scheduler: SchedulerCallable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # a checkpoint leaves out what never changes; checkpoint.check() is strict instead
        self.network = network
        self._make_optimizer = optimizer
        self._make_scheduler = lr_scheduler
        self.seed = seed
        # options that cannot be are refused before anything else is set up
        trial = self.stand_in()
        own = trial.param_groups[0]["seed"]
        if own not in (0, seed) or not isinstance(trial.exchange, LocalExchange) or trial.network is not None:
            raise ValueError(
                f"model.optimizer's seed={own}, exchange and network are set by the run: "
                "give seed_everything and leave them out"
            )
        check_compiled(network, trial.memory, trial.directions_per_forward)
        self.compute_dtype = DTYPES[trial.compute_dtype]
        if self.compute_dtype != torch.float32:
            cast_frozen(network, self.compute_dtype)
        self.local_steps = int(trial.param_groups[0]["local_steps"])
        self.config: Mapping[str, Any] = {}
        self.change_on_resume: list[str] = []
        self.changed_on_resume: list[str] = []
        self.exchange = AllReduceExchange()
        self.traffic = Traffic()
        self.last_round: RoundReport | None = None
        self.last_validation: dict[str, float] = {}
        self.last_test: dict[str, float] = {}
        self._table: SplitTable | None = None
        self._view: CastView | None = None
        self._initial_digest = ""

    # What is optimized

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters in the order that fixes their streams; tied weights once."""
        return [(name, p) for name, p in self.network.named_parameters() if p.requires_grad]

    def stand_in(self) -> ZerothOrderOptimizer:
        """An optimizer with the options of the run's, of one number: it tells of the method, and costs nothing."""
        return self._make_optimizer([("stand-in", nn.Parameter(torch.zeros(1)))])

    def configure_optimizers(self) -> Any:
        """Builds the optimizer on the device, and the scheduler if there is one.

        Raises:
            ValueError: If nothing is trainable.
        """
        parameters = self.trainable()
        if not parameters:
            raise ValueError(f"model.network={type(self.network).__name__} has no trainable parameter")
        self.exchange.device = self._collective_device()
        optimizer = self.new_optimizer(parameters)
        optimizer.exchange = self.exchange
        if self._make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._make_scheduler(optimizer)}}

    def _collective_device(self) -> torch.device:
        """Where a tensor must be to be handed to the process group."""
        return torch.device(getattr(self.trainer.strategy, "collective_device", "cpu"))

    def new_optimizer(self, parameters: list[tuple[str, nn.Parameter]]) -> ZerothOrderOptimizer:
        """An optimizer of the network as configured, at round 0."""
        optimizer = self._make_optimizer(parameters)
        optimizer.network = self.network
        optimizer.param_groups[0]["seed"] = optimizer.defaults["seed"] = self.seed
        return optimizer

    @property
    def optimizer(self) -> ZerothOrderOptimizer:
        """The optimizer itself, without Lightning's wrapper."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, ZerothOrderOptimizer)
        return optimizer

    def on_fit_start(self) -> None:
        """Notes what the run starts from."""
        self.network.eval()
        self._initial_digest = digest(self.optimizer)

    # A round

    def training_step(self, batch: Round, batch_idx: int) -> None:
        """Runs one round: probe, exchange, aggregate, apply.

        Raises:
            RuntimeError: If the data is of another round than the state, or a module left evaluation mode.
        """
        optimizer = self.optimizer
        if batch.index != optimizer.round:
            raise RuntimeError(f"data of round {batch.index} given, round {optimizer.round} comes next")
        losses = [self._loss_of(minibatches) for minibatches in batch.batches]
        # through Lightning's wrapper, exactly once a round: its count of steps is the trainer's global_step
        self.optimizers().step(losses=losses, slots=batch.slots)  # type: ignore[union-attr, call-arg]
        assert optimizer.report is not None
        self.last_round = optimizer.report
        clients = getattr(self.trainer.datamodule, "clients", batch.slots.size)  # type: ignore[attr-defined]
        self.traffic.record(clients, batch.slots.size, self.local_steps, self.last_round.directions)
        scheduler = self.lr_schedulers()
        if scheduler is not None and not isinstance(scheduler, (list, ReduceLROnPlateau)):
            scheduler.step()

    def _loss_of(self, minibatches: list[dict[str, Tensor]]) -> Loss:
        return lambda k: self.network.loss(minibatches[k])

    def request_stop(self) -> None:
        """Asks all ranks to stop after the coming exchange."""
        self.exchange.stop_requested = True

    @property
    def stop_agreed(self) -> bool:
        """Whether the ranks agreed in the last exchange to stop."""
        return self.exchange.stop_agreed

    # Measuring

    def on_validation_epoch_start(self) -> None:
        """Begins to measure the validation split."""
        self._begin(self.trainer.datamodule.splits.val)  # type: ignore[attr-defined]

    def on_test_epoch_start(self) -> None:
        """Begins to measure the test split."""
        self._begin(self.trainer.datamodule.splits.test)  # type: ignore[attr-defined]

    def on_predict_epoch_start(self) -> None:
        """Forgets the weights of an earlier measurement."""
        self._view = None

    def _begin(self, examples: ExampleSet) -> None:
        self._table = SplitTable(examples)
        self._view = None

    def _evaluated(self, batch: dict[str, Tensor]) -> Evaluation:
        """What the network makes of a batch, computing as it does for a round's base loss."""
        if self.trainer.state.fn == "fit" and self.optimizer.memory == "low":
            return self.optimizer.at_base(partial(self.network.evaluate, batch))
        if self._view is None:
            self._view = CastView([p for _, p in self.trainable()], self.compute_dtype)
        with self._view.active(), torch.inference_mode():
            return self.network.evaluate(batch)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Evaluates one batch, formed globally and dealt whole to this rank."""
        assert self._table is not None
        self._table.add(batch["index"], self._evaluated(batch))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Combines the ranks' measurements into the metrics of the split."""
        self.last_validation = metrics = self._metrics("val")
        self._tell(metrics)
        if self.trainer.sanity_checking:
            return  # the measurement before round 0: Lightning's log calls do nothing here
        self.log_dict(metrics, logger=False)  # for those that monitor a metric
        scheduler = self.lr_schedulers() if self.trainer.state.fn == "fit" else None
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(metrics["val/loss"])

    def on_test_epoch_end(self) -> None:
        """Combines the ranks' measurements into the metrics of the split."""
        self.last_test = self._metrics("test")
        self.log_dict(self.last_test, logger=False)
        self._tell(self.last_test)

    def _tell(self, metrics: dict[str, float]) -> None:
        """Writes what a measurement gave, at the number of rounds done; where no progress bar shows it, says it."""
        for logger in self.trainer.loggers:
            logger.log_metrics(metrics, step=self.trainer.global_step)
        if self.trainer.is_global_zero and self.trainer.state.fn != "fit":
            log.info("%s", "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))

    def _metrics(self, split: str) -> dict[str, float]:
        """Metrics of the split just measured, the same on every rank."""
        table, self._table, self._view = self._table, None, None  # the memory is wanted for rounds
        assert table is not None
        table.gather(self._collective_device())
        return table.metrics(split)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> list[dict[str, Any]]:
        """What is predicted of each example of one batch, as plain values."""
        return prediction_lines(self.trainer.datamodule.predicted, batch["index"], self._evaluated(batch))  # type: ignore[attr-defined]

    # Checkpoints

    def fingerprints(self) -> dict[str, str]:
        """Hashes of everything that must be the same on all ranks before a round."""
        dumped = yaml.safe_dump(dict(self.config), sort_keys=True)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        return {
            "configuration": hashlib.sha256(dumped.encode()).hexdigest(),
            **(data.fingerprints() if data is not None else {}),
            **{f"version of {name}": version for name, version in versions.package_versions().items()},
            "initial state": self._initial_digest,
            "frozen weights": checkpoint.frozen_fingerprint(self.network),
        }

    def on_save_checkpoint(self, checkpoint_dict: dict[str, Any]) -> None:
        """Adds what a resumed run is compared with; leaves out what never changes."""
        checkpoint.write(checkpoint_dict, self)

    def on_load_checkpoint(self, checkpoint_dict: dict[str, Any]) -> None:
        """Compares a checkpoint with this run.

        Raises:
            ValueError: If it is of another model, method or data.
        """
        resuming = self.trainer.state.fn == "fit"
        changed = self.changed_on_resume = checkpoint.compare(checkpoint_dict, self, resuming)
        if resuming:
            checkpoint.take_counters(checkpoint_dict, self)
        schedules = ("model.optimizer.init_args.lr", "model.lr_scheduler")
        rebuilt = resuming and bool(checkpoint_dict[checkpoint.KEY].get(REBUILT))
        if rebuilt:
            self.check_reschedulable("the checkpoint was made from a ledger")
        if rebuilt or any(key == name or key.startswith(name + ".") for key in changed for name in schedules):
            self._reschedule(checkpoint_dict)

    def check_reschedulable(self, why: str) -> None:
        """Refuses a schedule whose place is not a function of the round.

        Raises:
            ValueError: If it follows a metric, which a ledger does not hold.
        """
        scheduler = None if self._make_scheduler is None else self._make_scheduler(self.stand_in())
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ValueError(
                f"model.lr_scheduler=ReduceLROnPlateau follows a metric, which a ledger does not hold, and {why}: "
                "resume from a checkpoint that the run wrote"
            )

    def _reschedule(self, checkpoint_dict: dict[str, Any]) -> None:
        """Puts the learning rate where the changed schedule would have it by now, had it been followed from round 0."""
        group = checkpoint_dict["optimizer_states"][0]["param_groups"][0]
        optimizer = self.stand_in()
        scheduler = None if self._make_scheduler is None else self._make_scheduler(optimizer)
        if scheduler is not None and not isinstance(scheduler, ReduceLROnPlateau):
            for _ in range(int(group["round"])):
                optimizer._opt_called = True  # type: ignore[attr-defined]  # no step of it is meant
                scheduler.step()
        reached = optimizer.param_groups[0]
        group.update({key: reached[key] for key in ("lr", "initial_lr") if key in reached})
        checkpoint_dict["lr_schedulers"] = [] if scheduler is None else [scheduler.state_dict()]
