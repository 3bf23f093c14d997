"""What of Lightning's options a run refuses before anything is loaded: what cannot act, or has nothing to act on.

The decisions are those of :mod:`hiso_pl.cli.trainer_table`.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Trainer, callbacks

from hiso_pl.callbacks import RoundProgressBar
from hiso_pl.callbacks.privacy_budget import budget_of
from hiso_pl.callbacks.signals import interrupted
from hiso_pl.cli.parser import ConfigurationError
from hiso_pl.cli.trainer_table import CALLBACKS, CHECKPOINT, TRAINER, of_class
from hiso_pl.errors import RunError
from hiso_pl.ranks import environment

log = logging.getLogger(__name__)


class SeveralRanks(Exception):
    """The options ask for several processes of this machine, and this one is not of a launch.

    Args:
        ranks: How many.
    """

    def __init__(self, ranks: int) -> None:
        super().__init__(f"trainer.devices asks for {ranks} processes")
        self.ranks = ranks


def check(config: Namespace, command: str | None) -> None:
    """Refuses what cannot act in the options of a command, and completes what the launch says of the trainer.

    Raises:
        ValueError: If an option cannot act, or the launch contradicts the options or itself; it says what to set.
        SeveralRanks: If the options ask for several processes, which are to be launched.
    """
    trainer = config.trainer
    for room, table in (("trainer", TRAINER), ("checkpoint", CHECKPOINT)):
        for name, decision in table.items():
            if f"{room}.{name}" in config and not decision.allows(value := config[f"{room}.{name}"]):
                raise ConfigurationError(f"{room}.{name}={getattr(value, 'class_path', value)} {decision.must}")
    if config.get("data") is None:
        raise ConfigurationError("data must be given, such as hiso_pl.data.PromptData or a configuration that says it")
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
    if of_class(value, callbacks.ProgressBar) and not of_class(value, RoundProgressBar):
        raise ConfigurationError(
            f"trainer.callbacks={value.class_path} cannot act: hiso_pl.callbacks.RoundProgressBar counts rounds"
        )
    for kind, instead in CALLBACKS.items():
        if of_class(value, kind):
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
        ranks = count or gpus or 1
        environment.check_launch(ranks, trainer.num_nodes)
        if ranks > 1:
            raise SeveralRanks(ranks)
        return
    local = environment.local_world_size()
    environment.check_launch(None if len(named) in range(1, local + 1) else count, trainer.num_nodes)
    trainer.num_nodes = max(1, environment.world_size() // local)
    if not named:
        trainer.devices = min(gpus, local) if gpus else local


def check_reached(trainer: Trainer) -> None:
    """Refuses a fit that has ended before its last round, unless a signal, a budget or EarlyStopping ended it.

    Raises:
        RunError: If something else did.
    """
    done, rounds = trainer.global_step, trainer.max_steps
    if done >= rounds or interrupted(trainer) or ((budget := budget_of(trainer)) is not None and budget.ended):
        return
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, callbacks.EarlyStopping) and callback.stopping_reason_message:
            log.warning("Stopped after round %d of %d: %s", done, rounds, callback.stopping_reason_message)
            return
    raise RunError(f"the run ended after round {done} of {rounds}: a callback asked the trainer to stop")
