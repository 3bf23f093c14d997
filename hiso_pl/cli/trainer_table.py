"""Which of Lightning's options act in a run, and what to set in place of those that cannot: one table.

A run is one endless epoch of rounds without gradients, whose result depends neither on the number of ranks nor on time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import callbacks
from lightning.pytorch.strategies import StrategyRegistry

from hiso_pl.ranks.strategy import ScalarStrategy


@dataclass(frozen=True)
class Decision:
    """What becomes of an option.

    Args:
        must: What is said of a value that does not act: what it must be, and what to set instead.
        values: Those that act, told apart by their type as well; or what tells them.
        fixed: Whether there is nothing to choose, so that help need not tell of it.
    """

    must: str = ""
    values: tuple[Any, ...] | Callable[[Any], Any] | None = None
    fixed: bool = False

    def allows(self, value: Any) -> bool:
        """Whether a value acts."""
        if self.values is None or callable(self.values):
            return self.values is None or bool(self.values(value))
        return any(value is known or (type(value) is type(known) and value == known) for known in self.values)


def of_class(value: Any, kind: type) -> bool:
    """Whether an option's value is of a class, by its ``class_path``."""
    module, _, name = str(getattr(value, "class_path", "")).rpartition(".")
    found = getattr(import_module(module), name, None) if module else None
    return isinstance(found, type) and issubclass(found, kind)


def _is_scalar_strategy(value: Any) -> bool:
    if isinstance(value, str):
        return value in StrategyRegistry and issubclass(StrategyRegistry[value]["strategy"], ScalarStrategy)
    return of_class(value, ScalarStrategy)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _fixed(must: str, *values: Any) -> Decision:
    return Decision(must, values, fixed=True)


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
    "precision": _fixed(
        "must be 32-true: the parameters that are trained are fp32; compute_dtype says what is computed in",
        None,
        32,
        "32",
        "32-true",
    ),
    "logger": WORKS,
    "callbacks": WORKS,
    "fast_dev_run": _fixed("must be false: set trainer.max_steps=1 and another folder", *NOTHING),
    "max_epochs": _fixed(f"must be -1: {NO_EPOCHS}", None, -1),
    "min_epochs": _fixed(f"must be null: {NO_EPOCHS}", None),
    "max_steps": Decision("must be at least 1: it counts rounds", _is_count),
    "min_steps": _fixed("must be null: only trainer.max_steps and a callback's patience end a run", None),
    "max_time": _fixed(
        "must be null: it would end a run as if it were done; `timeout --signal TERM` lets a run end after a round, "
        "save its state and say so, and --ckpt_path last goes on",
        None,
    ),
    "limit_train_batches": _fixed("must be 1.0: rounds are counted by trainer.max_steps", *WHOLE),
    "limit_val_batches": Decision(f"must be 1.0 or 0: {FEWER}", (*WHOLE, 0, 0.0)),
    "limit_test_batches": Decision(f"must be 1.0 or 0: {FEWER}", (*WHOLE, 0, 0.0)),
    "limit_predict_batches": _fixed(f"must be 1.0: {FEWER}", *WHOLE),
    "overfit_batches": _fixed("must be 0: give the data module fewer training examples instead", *NOTHING),
    "val_check_interval": Decision(
        "must be an integer of at least 1: it counts rounds; trainer.limit_val_batches=0 leaves validations out",
        _is_count,
    ),
    "check_val_every_n_epoch": _fixed(f"must be null: {NO_EPOCHS}; set trainer.val_check_interval", None),
    "num_sanity_val_steps": Decision(
        f"must be -1, which measures the model as it comes, or 0, which does not: {RANKS_BATCHES}", (-1, 0)
    ),
    "log_every_n_steps": Decision("must be at least 1: it counts rounds", _is_count),
    "enable_checkpointing": _fixed(
        "must be true: a run writes its last state; checkpoint.save_top_k=0 writes no others", None, True
    ),
    "enable_progress_bar": WORKS,
    "enable_model_summary": WORKS,
    "accumulate_grad_batches": _fixed(f"must be 1: {NO_GRADIENT}; set the data module's batch_size", 1),
    "gradient_clip_val": _fixed(f"must be null: {NO_GRADIENT}", None),
    "gradient_clip_algorithm": _fixed(f"must be null: {NO_GRADIENT}", None),
    "deterministic": _fixed("must be null: set --deterministic instead", None),
    "benchmark": _fixed("must be false: it lets kernels, and with them bits, depend on timing", None, False),
    "inference_mode": _fixed("must be true: measurements take place in it in any case", True),
    "use_distributed_sampler": _fixed("must be false: the data module deals batches to the ranks itself", False),
    "profiler": Decision(
        "must be simple, advanced, pytorch or a class",
        lambda value: value is None or isinstance(value, Namespace) or value in ("simple", "advanced", "pytorch"),
    ),
    "detect_anomaly": _fixed(f"must be false: {NO_GRADIENT}", False),
    "barebones": _fixed("must be false: hiso-pl bench measures what a round costs", False),
    "plugins": Decision("must be null: trainer.strategy brings its own", lambda value: not value, fixed=True),
    "sync_batchnorm": _fixed("must be false: probes leave the statistics of batch norms as they are", False),
    "reload_dataloaders_every_n_epochs": _fixed(f"must be 0: {NO_EPOCHS}", 0),
    "default_root_dir": Decision(
        "must be a folder of this machine: what is written whole or not at all cannot be so elsewhere",
        lambda value: "://" not in str(value),
    ),
    "enable_autolog_hparams": _fixed("must be true: what is logged is said by the options of board", True),
    "model_registry": _fixed("must be null: hiso-pl export writes a model to be uploaded", None),
}
"""Every option of Trainer."""

CHECKPOINT: dict[str, Decision] = {
    "every_n_epochs": _fixed(f"must be null: {NO_EPOCHS}; set checkpoint.every_n_train_steps", None, 0),
    "train_time_interval": _fixed("must be null: set checkpoint.every_n_train_steps, which counts rounds", None),
    "save_on_train_epoch_end": _fixed(f"must be null: {NO_EPOCHS}", None, False),
}
"""Those of ModelCheckpoint that cannot act."""

FIXED = {
    f"{room}.{name}"
    for room, table in (("trainer", TRAINER), ("checkpoint", CHECKPOINT))
    for name, decision in table.items()
    if decision.fixed
}
"""The options with which there is nothing to choose."""

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
