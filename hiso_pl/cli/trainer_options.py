"""Which of Lightning's options act in a run, and what to set in place of those that cannot: one table.

A run is one endless epoch of rounds without gradients, whose result depends neither on the number of ranks nor on time.
An option that asks for something else is refused before anything is loaded, and so is one that would act on nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Trainer, callbacks
from lightning.pytorch.strategies import StrategyRegistry

from hiso_pl.callbacks import RoundProgressBar
from hiso_pl.callbacks.signals import interrupted
from hiso_pl.cli.parser import ConfigurationError
from hiso_pl.errors import RunError
from hiso_pl.ranks import environment
from hiso_pl.ranks.strategy import ScalarStrategy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decision:
    """What becomes of an option.

    Args:
        must: What is said of a value that does not act: what it must be, and what to set instead.
        values: Those that act, told apart by their type as well; or what tells them.
    """

    must: str = ""
    values: tuple[Any, ...] | Callable[[Any], Any] | None = None

    def allows(self, value: Any) -> bool:
        """Whether a value acts."""
        if self.values is None or callable(self.values):
            return self.values is None or bool(self.values(value))
        return any(value is known or (type(value) is type(known) and value == known) for known in self.values)


def _of_class(value: Any, kind: type) -> bool:
    """Whether an option's value is of a class, by its ``class_path``."""
    module, _, name = str(getattr(value, "class_path", "")).rpartition(".")
    found = getattr(import_module(module), name, None) if module else None
    return isinstance(found, type) and issubclass(found, kind)


def _is_scalar_strategy(value: Any) -> bool:
    if isinstance(value, str):
        return value in StrategyRegistry and issubclass(StrategyRegistry[value]["strategy"], ScalarStrategy)
    return _of_class(value, ScalarStrategy)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


WORKS = Decision()
WHOLE = (None, 1.0)
NOTHING = (None, False, 0, 0.0)
NO_GRADIENT = "a round has no gradient"
NO_EPOCHS = "a run is one epoch of trainer.max_steps rounds"
RANKS_BATCHES = "it counts a rank's batches, so results would depend on the number of ranks"
FEWER = f"{RANKS_BATCHES}; give the data module fewer examples instead"

TRAINER: dict[str, Decision] = {
    "accelerator": Decision("must be cpu, gpu or auto", ("auto", "cpu", "gpu", "cuda")),
    "strategy": Decision(
        "must be scalar (hiso_pl.ranks.strategy.ScalarStrategy, by class_path, where it is given options): "
        "others send the model between the ranks, or let each be the first",
        _is_scalar_strategy,
    ),
    "devices": Decision(
        "must be a number of processes, a list of GPUs or auto",
        lambda value: re.fullmatch(r"None|auto|-1|[1-9]\d*|\[?\d+(, *\d+)*,?\]?", str(value)) and value not in (0, "0"),
    ),
    "num_nodes": WORKS,
    "precision": Decision(
        "must be 32-true: the parameters that are trained are fp32; compute_dtype says what is computed in",
        (None, 32, "32", "32-true"),
    ),
    "logger": WORKS,
    "callbacks": WORKS,
    "fast_dev_run": Decision("must be false: set trainer.max_steps=1 and another folder", NOTHING),
    "max_epochs": Decision(f"must be -1: {NO_EPOCHS}", (None, -1)),
    "min_epochs": Decision(f"must be null: {NO_EPOCHS}", (None,)),
    "max_steps": Decision("must be at least 1: it counts rounds", _is_count),
    "min_steps": Decision("must be null: only trainer.max_steps and a callback's patience end a run", (None,)),
    "max_time": Decision(
        "must be null: it would end a run as if it were done; `timeout --signal TERM` lets a run end after a round, "
        "save its state and say so, and --ckpt_path last goes on",
        (None,),
    ),
    "limit_train_batches": Decision("must be 1.0: rounds are counted by trainer.max_steps", WHOLE),
    "limit_val_batches": Decision(f"must be 1.0 or 0: {FEWER}", (*WHOLE, 0, 0.0)),
    "limit_test_batches": Decision(f"must be 1.0 or 0: {FEWER}", (*WHOLE, 0, 0.0)),
    "limit_predict_batches": Decision(f"must be 1.0: {FEWER}", WHOLE),
    "overfit_batches": Decision("must be 0: give the data module fewer training examples instead", NOTHING),
    "val_check_interval": Decision(
        "must be an integer of at least 1: it counts rounds; trainer.limit_val_batches=0 leaves validations out",
        _is_count,
    ),
    "check_val_every_n_epoch": Decision(f"must be null: {NO_EPOCHS}; set trainer.val_check_interval", (None,)),
    "num_sanity_val_steps": Decision(
        f"must be -1, which measures the model as it comes, or 0, which does not: {RANKS_BATCHES}", (-1, 0)
    ),
    "log_every_n_steps": Decision("must be at least 1: it counts rounds", _is_count),
    "enable_checkpointing": Decision(
        "must be true: a run writes its last state; checkpoint.save_top_k=0 writes no others", (None, True)
    ),
    "enable_progress_bar": WORKS,
    "enable_model_summary": WORKS,
    "accumulate_grad_batches": Decision(f"must be 1: {NO_GRADIENT}; set the data module's batch_size", (1,)),
    "gradient_clip_val": Decision(f"must be null: {NO_GRADIENT}", (None,)),
    "gradient_clip_algorithm": Decision(f"must be null: {NO_GRADIENT}", (None,)),
    "deterministic": Decision("must be null: set --deterministic instead", (None,)),
    "benchmark": Decision("must be false: it lets kernels, and with them bits, depend on timing", (None, False)),
    "inference_mode": Decision("must be true: measurements take place in it in any case", (True,)),
    "use_distributed_sampler": Decision("must be false: the data module deals batches to the ranks itself", (False,)),
    "profiler": Decision(
        "must be simple, advanced, pytorch or a class",
        lambda value: value is None or isinstance(value, Namespace) or value in ("simple", "advanced", "pytorch"),
    ),
    "detect_anomaly": Decision(f"must be false: {NO_GRADIENT}", (False,)),
    "barebones": Decision("must be false: hiso-pl bench measures what a round costs", (False,)),
    "plugins": Decision("must be null: trainer.strategy brings its own", lambda value: not value),
    "sync_batchnorm": Decision("must be false: probes leave the statistics of batch norms as they are", (False,)),
    "reload_dataloaders_every_n_epochs": Decision(f"must be 0: {NO_EPOCHS}", (0,)),
    "default_root_dir": Decision(
        "must be a folder of this machine: what is written whole or not at all cannot be so elsewhere",
        lambda value: "://" not in str(value),
    ),
    "enable_autolog_hparams": Decision("must be true: what is logged is said by the options of board", (True,)),
    "model_registry": Decision("must be null: hiso-pl export writes a model to be uploaded", (None,)),
}
"""Every option of Trainer."""

GIVEN: dict[str, dict[str, Any]] = {
    "fit": {"weights_only": True},
    "validate": {"weights_only": True, "verbose": False},
    "test": {"weights_only": True, "verbose": False},
    "predict": {"weights_only": True, "return_predictions": False},
}
"""What the program itself gives to Trainer's methods, so that it is no option; of the others ckpt_path is one.

A checkpoint is data; Lightning's table rounds metrics to fp32, and the module tells them itself; the callback that
writes predictions keeps them.
"""

CALLBACKS: dict[type, str] = {
    callbacks.BaseFinetuning: "trainable of model.network says what is trained",
    callbacks.BatchSizeFinder: "set the data module's batch_size",
    callbacks.GradientAccumulationScheduler: f"{NO_GRADIENT}; set the data module's batch_size",
    callbacks.LearningRateFinder: "set the learning rate and model.lr_scheduler",
    callbacks.ModelPruning: "the ranks and the ledger would not have its changes",
    callbacks.OnExceptionCheckpoint: "the state may be no round's; --ckpt_path ledger goes on from the last one",
    callbacks.SpikeDetection: "a round skips a client whose losses are not finite by itself",
    callbacks.StochasticWeightAveraging: "the ranks and the ledger would not have its changes",
    callbacks.Timer: TRAINER["max_time"].must.removeprefix("must be null: "),
    callbacks.WeightAveraging: "the ranks and the ledger would not have its changes",
}
"""Lightning's callbacks that cannot act, and why or what to set instead."""


def check(config: Namespace, command: str | None) -> None:
    """Refuses what cannot act in the options of a command, and completes what the launch says of the trainer.

    Raises:
        ValueError: If an option cannot act, or the launch contradicts the options or itself; it says what to set.
    """
    if isinstance(config.seed_everything, bool):
        raise ConfigurationError(f"seed_everything={config.seed_everything} must be an integer")
    trainer = config.trainer
    for name, decision in TRAINER.items():
        if name in trainer and not decision.allows(value := trainer[name]):
            raise ConfigurationError(f"trainer.{name}={getattr(value, 'class_path', value)} {decision.must}")
    if trainer.log_every_n_steps != 1 and not trainer.callbacks:
        raise ConfigurationError(
            f"trainer.log_every_n_steps={trainer.log_every_n_steps} must be 1 where no callback of Lightning's logs: "
            "set board.every_n_rounds"
        )
    for value in trainer.callbacks if isinstance(trainer.callbacks, list) else [trainer.callbacks]:
        _check_callback(value)
    _check_measurements(config, command)
    _fit_to_launch(trainer)


def _check_callback(value: Any) -> None:
    if _of_class(value, callbacks.ProgressBar) and not _of_class(value, RoundProgressBar):
        raise ConfigurationError(
            f"trainer.callbacks={value.class_path} cannot act: hiso_pl.callbacks.RoundProgressBar counts rounds"
        )
    for kind, instead in CALLBACKS.items():
        if _of_class(value, kind):
            raise ConfigurationError(f"trainer.callbacks={value.class_path} cannot act: {instead}")


def _check_measurements(config: Namespace, command: str | None) -> None:
    """Whether there is something to measure where that is asked for, and the right checkpoint is kept by it."""
    trainer, monitor = config.trainer, config.get("checkpoint.monitor")
    for split, asking in (
        ("val", command == "validate" and "validate"),
        ("test", (command == "test" and "test") or (config.get("test_at_end") and "test_at_end")),
        ("val", monitor and f"checkpoint.monitor={monitor}"),
        ("val", _plateau(config.get("model.lr_scheduler")) and "model.lr_scheduler=ReduceLROnPlateau"),
    ):
        if asking and trainer[f"limit_{split}_batches"] in (0, 0.0):
            raise ConfigurationError(f"trainer.limit_{split}_batches=0 must be 1.0: {asking} asks for measurements")
    if monitor and not str(monitor).endswith("loss") and config.get("checkpoint.mode") == "min":
        # Lightning keeps what is lowest unless told otherwise, which of an accuracy would be the worst
        raise ConfigurationError(
            f"checkpoint.mode=min with checkpoint.monitor={monitor} would keep the worst checkpoint: must be max"
        )


def _plateau(scheduler: Any) -> bool:
    return str(getattr(scheduler, "class_path", "")).endswith("ReduceLROnPlateau")


def _fit_to_launch(trainer: Namespace) -> None:
    """Compares devices and machines with the launch; under torchrun that says how many, and it need not be said again.

    A number of devices is one of processes; GPUs that are named are shared by the processes of a machine.
    """
    named = re.findall(r"\d+", str(trainer.devices)) if re.search(r"[\[,]", str(trainer.devices)) else []
    gpus = torch.cuda.device_count() if trainer.accelerator in ("auto", "gpu", "cuda") else 0
    count = len(named) or (None if str(trainer.devices) in ("None", "auto", "-1") else int(trainer.devices))
    if not environment.under_torchrun():
        environment.check_launch(count or gpus or 1, trainer.num_nodes)
        return
    local = environment.local_world_size()
    environment.check_launch(None if len(named) in range(1, local + 1) else count, trainer.num_nodes)
    trainer.num_nodes = max(1, environment.world_size() // local)
    if not named:
        trainer.devices = min(gpus, local) if gpus else local


def check_reached(trainer: Trainer) -> None:
    """Refuses a fit that has ended before its last round, unless a signal or EarlyStopping ended it.

    Raises:
        RunError: If something else did.
    """
    done, rounds = trainer.global_step, trainer.max_steps
    if done >= rounds or interrupted(trainer):
        return
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, callbacks.EarlyStopping) and callback.stopping_reason_message:
            log.warning("Stopped after round %d of %d: %s", done, rounds, callback.stopping_reason_message)
            return
    raise RunError(f"the run ended after round {done} of {rounds}: a callback asked the trainer to stop")
