"""LightningCLI for federated runs: defaults, checks, callbacks, and where a run goes on from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from hiso_pl.callbacks import (
    CompleteValidation,
    DeferredSignals,
    InStepCheck,
    RoundLedger,
    RoundProgressBar,
    RunFolder,
    RunSummary,
    TensorBoardPanels,
)
from hiso_pl.callbacks.ledger import rebuilt_path
from hiso_pl.callbacks.predictions import PredictionWriter
from hiso_pl.callbacks.signals import interrupted
from hiso_pl.cli import edge, trainer_options
from hiso_pl.cli.parser import ConfigurationError, add_traceback
from hiso_pl.ledger import LEDGER, LedgerReader
from hiso_pl.module import FederatedModule
from hiso_pl.ranks import environment, launch_store, process
from hiso_pl.run import checkpoint
from hiso_pl.run.folder import checkpoints, held_by_run, newest_checkpoint, refuse_held

log = logging.getLogger(__name__)

TRAINER_DEFAULTS: dict[str, Any] = {
    "strategy": {"class_path": "hiso_pl.ranks.strategy.ScalarStrategy"},
    "max_epochs": -1,
    "max_steps": 1000,
    "val_check_interval": 100,
    "check_val_every_n_epoch": None,
    "num_sanity_val_steps": -1,
    "log_every_n_steps": 1,
    "use_distributed_sampler": False,
    "enable_model_summary": False,
    "default_root_dir": "runs/default",
}


class FederatedCLI(LightningCLI):
    """LightningCLI with the links, defaults and callbacks of a federated run.

    Attributes:
        from_ledger: Whether the run goes on from its ledger; its checkpoint is not there yet then.
        rounds_in_ledger: How many rounds that has, on rank 0.
        goes_on: Whether a run that the folder holds is this one's own, begun by an earlier attempt.
    """

    from_ledger = False
    rounds_in_ledger = 0
    goes_on = False

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what belongs to a run as a whole."""
        parser.add_argument(
            "--threads",
            type=int | None,
            default=None,
            help="CPU threads of a rank. If null, 1 under torchrun and all cores otherwise.",
        )
        parser.add_argument(
            "--deterministic",
            type=bool,
            default=True,
            help="Whether an operation without a deterministic implementation is an error.",
        )
        parser.add_argument(
            "--test_at_end",
            type=bool,
            default=False,
            help="Whether a fit that reaches its last round ends with a test of the final model.",
        )
        parser.add_argument(
            "--change_on_resume",
            type=list[str],
            default=[],
            help="Options that may differ from those of the checkpoint a run is resumed from, by name.",
        )
        add_traceback(parser)
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(InStepCheck, "in_step")
        parser.add_lightning_class_args(RoundLedger, "ledger")
        parser.add_lightning_class_args(TensorBoardPanels, "board")
        parser.set_defaults(
            {
                "checkpoint.every_n_train_steps": 500,
                "checkpoint.save_top_k": 1,
                "checkpoint.filename": "{step}",
                "checkpoint.enable_version_counter": False,
            }
        )
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.init_args.seed")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The commands, each with the arguments that are no options of it."""
        return {name: {*skipped, *trainer_options.GIVEN[name]} for name, skipped in LightningCLI.subcommands().items()}

    def _parse_ckpt_path(self) -> None:
        """Leaves the configuration as given: one found in a checkpoint is compared with it, never used."""

    def before_instantiate_classes(self) -> None:
        """Checks and completes what concerns the run as a whole."""
        config = self._config()
        edge.begins(Path(trainer_root(config)), config.traceback)
        trainer_options.check(config, self.subcommand)
        settings = process.configure(config.threads, config.deterministic)
        config.threads = settings["threads"]  # resolved, so that the run's files record it
        if "ckpt_path" in config:
            config.ckpt_path = self._checkpoint_path(config)
            if self.subcommand == "fit" and config.ckpt_path is None and not self.goes_on:
                # before a model is loaded; the run folder's callback asks again once the ranks have met
                root = trainer_root(config)
                refuse_held(root, held_by_run(Path(root)))

    def _checkpoint_path(self, config: Namespace) -> str | None:
        """The checkpoint to go on from; ``ledger`` for one that is made of it when the ranks have met.

        For a fit ``auto`` is what a restart by torchrun gets by itself: the newest checkpoint in the folder, its ledger
        if none can be read, or the start.
        """
        began: str | None = None
        root, path = Path(trainer_root(config)), config.ckpt_path
        if self.subcommand == "fit":
            if path == "ledger":
                return self._from_ledger(root)
            began = "ckpt_path=auto" if path == "auto" and held_by_run(root) else None
            if launch_store.has_begun(str(root)):
                began = "Restarted by torchrun"
            self.goes_on = began is not None
            path = None if path == "auto" else path
        if path == "last" or self.goes_on:
            newest = newest_checkpoint(root)
            if newest is not None:
                path = str(newest)
            elif self.subcommand == "fit" and self._ledger_serves(config, root):
                why = "no checkpoint can be read" if checkpoints(root) else "nothing was saved"
                log.warning("%s: going on from the ledger, as %s.", began or root, why)
                return self._from_ledger(root)
            elif path == "last":
                raise ConfigurationError(f"ckpt_path=last: {root} holds no checkpoint that can be read")
            if self.goes_on:
                log.warning("%s: going on from %s.", began, path or "the start, as nothing was saved")
        if path is not None:
            checkpoint.read(path)
        return path  # type: ignore[no-any-return]

    def _ledger_serves(self, config: Namespace, root: Path) -> bool:
        """Whether to go on from the ledger where there is no checkpoint.

        A restart before the first one was due computes those few rounds again, with their validations.
        """
        path = root / LEDGER
        if not path.is_file():
            return False
        every = config.get("checkpoint.every_n_train_steps")
        return config.ckpt_path == "last" or not every or bool(checkpoints(root)) or LedgerReader(path).rounds >= every

    def _from_ledger(self, root: Path) -> str:
        if environment.rank() == 0:  # the others may not see its folder
            if not (root / LEDGER).is_file():
                raise ConfigurationError(f"ckpt_path=ledger: {root} holds no {LEDGER}")
            self.rounds_in_ledger = LedgerReader(root / LEDGER).rounds
        self.from_ledger = True
        return "ledger"

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the trainer with this package's callbacks around the user's own."""
        config = self._config()
        model = self.model
        assert isinstance(model, FederatedModule)
        _resolve_directions_per_forward(config, model)
        text = self._parser(self.subcommand).dump(config, skip_unset=False)
        plain = yaml.safe_load(text)
        for key in ("cache", "cache_dir"):  # where tokens are kept changes no result
            (plain.get("data") or {}).get("init_args", {}).pop(key, None)
        model.config = {key: plain[key] for key in (*checkpoint.COMPARED, *checkpoint.WARNED) if key in plain}
        model.change_on_resume = list(config.change_on_resume)
        if self.config_init[str(self.subcommand)]["trainer"]["logger"] in (None, True) and self.subcommand == "fit":
            # what the folder's curves show beyond the checkpoint's round is of a future that is computed again
            beyond: dict[str, Any] = {}
            if config.ckpt_path is not None:
                done = self.rounds_in_ledger if self.from_ledger else self._round_of(config.ckpt_path)
                beyond["purge_step"] = done + 1
            kwargs["logger"] = TensorBoardLogger(
                trainer_root(config), name="", version="", default_hp_metric=False, **beyond
            )
        elif self.subcommand != "fit":
            kwargs["logger"] = False
        trainer = super().instantiate_trainer(**kwargs)
        own: list[Callback] = [
            DeferredSignals(),
            CompleteValidation(),
            RunFolder(text, self.goes_on),
            RunSummary(),
            PredictionWriter(),
        ]
        if not isinstance(trainer.progress_bar_callback, (RoundProgressBar, type(None))):
            trainer.callbacks.remove(trainer.progress_bar_callback)  # type: ignore[attr-defined]
            own.append(RoundProgressBar())
        trainer.callbacks.extend(own)  # type: ignore[attr-defined]
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RoundLedger):
                callback.rebuilding = self.from_ledger
            if isinstance(callback, InStepCheck) and self.subcommand == "fit":
                callback.start = self._start(config.ckpt_path)
        return trainer

    def _round_of(self, path: str) -> int:
        return int(checkpoint.read(path)["global_step"])

    def _start(self, path: str | None) -> str:
        """Where the run goes on from, so far as all ranks must know it; how far a ledger leads only rank 0 does."""
        if self.from_ledger:
            return "the ledger"
        return "the start" if path is None else f"round {self._round_of(path)}"

    def before_fit(self) -> None:
        """Compares a checkpoint with this run before anything is written or any rank is waited for."""
        path = self._config().ckpt_path
        if path is not None and not self.from_ledger:
            assert isinstance(self.model, FederatedModule)
            checkpoint.compare(checkpoint.read(path), self.model, resuming=True)

    def after_fit(self) -> None:
        """Sees to it that this was the last round, and tests the final model if asked to."""
        trainer_options.check_reached(self.trainer)
        if self._config().test_at_end and not interrupted(self.trainer):
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        config = self._config()
        kwargs["ckpt_path"] = str(rebuilt_path(trainer_root(config))) if self.from_ledger else config.get("ckpt_path")
        return kwargs | trainer_options.GIVEN[subcommand]

    def _config(self) -> Namespace:
        config = self.config.get(str(self.subcommand), self.config)
        assert isinstance(config, Namespace)
        return config


def trainer_root(config: Namespace) -> str:
    """The run's folder."""
    return str(config.trainer.default_root_dir or TRAINER_DEFAULTS["default_root_dir"])


def _resolve_directions_per_forward(config: Namespace, model: FederatedModule) -> None:
    """Writes the number that ``auto`` stands for into the configuration, so that the run's files hold it."""
    key = "model.optimizer.init_args.directions_per_forward"
    if config.get(key) == "auto" and (parameters := model.trainable()):
        config[key] = model.new_optimizer(parameters).points_per_forward()
        log.info("directions_per_forward=auto is %d here.", config[key])
