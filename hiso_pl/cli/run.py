"""LightningCLI for federated runs: defaults, checks, callbacks, and where a run goes on from."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from hiso_pl import callbacks
from hiso_pl.callbacks import InStepCheck, Participation, RoundLedger, RoundProgressBar, TensorBoardPanels
from hiso_pl.callbacks.loggers import go_on, make_folders
from hiso_pl.callbacks.predictions import PredictionWriter
from hiso_pl.callbacks.signals import interrupted
from hiso_pl.cli import edge, plain_text, run_help, trainer_options, trainer_table
from hiso_pl.cli.lengths import follow_the_run
from hiso_pl.cli.parser import add_traceback
from hiso_pl.data import FederatedDataModule, facts_of
from hiso_pl.federation.privacy.account import check_installed
from hiso_pl.first_order import DifferenceMethod as DifferenceMethod  # its kinds are found by their short names
from hiso_pl.lightning_privates import judge_by_own_validation
from hiso_pl.module import FederatedModule
from hiso_pl.ranks import environment, process
from hiso_pl.ranks.strategy import ScalarStrategy
from hiso_pl.run import checkpoint, going_on, lock
from hiso_pl.run.configuration import of_the_launch
from hiso_pl.run.folder import BUDGET, CHECKPOINTS_FOLDER, DEFAULT_ROOT, LAST, held_by_run, refuse_held
from hiso_pl.run.start import Start, check_rounds, resolve
from hiso_pl.stages.options import made_in_place

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
    "default_root_dir": DEFAULT_ROOT,
}


class FederatedCLI(LightningCLI):
    """LightningCLI with the links, defaults and callbacks of a federated run.

    Attributes:
        start: Where the run goes on from.
        only: The one command that is called, so that the options of no other are collected; all of them if None.
    """

    start: Start
    only: str | None = None

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the seed."""
        told = "Seed of the partition, the cohorts, the minibatches, the directions and new weights: an integer."
        parser.add_argument("--seed_everything", type=int, default=self.seed_everything_default, help=told)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what belongs to a run as a whole."""
        plain_text.keep()
        add, add_callback = parser.add_argument, parser.add_lightning_class_args
        threads = "CPU threads of a rank. If null, 1 where ranks are launched and all cores otherwise."
        add("--threads", type=int | None, default=None, help=threads)
        deterministic = "Whether an operation without a deterministic implementation is an error."
        add("--deterministic", type=bool, default=True, help=deterministic)
        test_at_end = "Whether a fit that reaches its last round ends with a test of the final model."
        add("--test_at_end", type=bool, default=False, help=test_at_end)
        change = "Options that may differ from those of the checkpoint a run is resumed from, by name."
        add("--change_on_resume", type=list[str], default=[], help=change)
        add_traceback(parser)
        add_callback(ModelCheckpoint, "checkpoint")
        add_callback(InStepCheck, "in_step")
        add_callback(RoundLedger, "ledger")
        add_callback(TensorBoardPanels, "board")
        add_callback(Participation, "participation")
        parser.set_defaults({"checkpoint.every_n_train_steps": 500, "checkpoint.save_top_k": 1})
        parser.set_defaults({"checkpoint.filename": "{step}", "checkpoint.enable_version_counter": False})
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.init_args.seed")

    @classmethod
    def subcommands(cls) -> dict[str, set[str]]:  # type: ignore[override]
        """The commands, each with the arguments that are no options of it."""
        found = LightningCLI.subcommands()
        return {name: {*found[name], *trainer_table.GIVEN[name]} for name in found if cls.only in (name, None)}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        run_help.settle(parser, subcommand)
        return parser

    def _parse_ckpt_path(self) -> None:
        """Leaves the configuration as given: one found in a checkpoint is compared with it, never used."""

    def before_instantiate_classes(self) -> None:
        """Checks and completes what concerns the run as a whole."""
        config = self._config()
        edge.begins(Path(trainer_root(config)), config.traceback)
        # as given, and not what this launch makes of it
        self._given = {key: config[key] for key in ("trainer.devices", "trainer.num_nodes")}
        trainer_options.check(config, self.subcommand)
        settings = process.configure(config.threads, config.deterministic)
        config.threads = settings["threads"]  # resolved, so that the run's files record it
        fitting, root = self.subcommand == "fit", Path(trainer_root(config))
        if fitting and environment.rank() == 0:  # the one that writes
            lock.hold(root)
        asked, every = config.get("ckpt_path"), config.get("checkpoint.every_n_train_steps")
        if asked == "ledger":
            _check_scalar_only(config)
        private = config.get("model.method.init_args.privacy") is not None
        self.start = resolve(root, asked, fitting, every, repeats=not private)
        if fitting and not private and self.start.resumes and (root / BUDGET).exists():
            raise ValueError(
                f"model.method.privacy=null must be what it was, as {root / BUDGET} would not tell any more of all "
                "that this run gives away: to go on without, name the checkpoint and another folder"
            )
        if fitting:
            check_rounds(self.start, config.trainer.max_steps)
        follow_the_run(config, self.start)
        if fitting and not self.start.resumes and not self.start.owns_folder:
            # before a model is loaded; the run folder's callback asks again once the ranks have met
            refuse_held(str(root), held_by_run(root))

    def instantiate_classes(self) -> None:
        """Builds model, data and trainer, and hands to the data what they must know of the model."""
        with made_in_place(self._config().get("model.stages")):
            super().instantiate_classes()
        assert isinstance(self.model, FederatedModule)
        assert isinstance(self.datamodule, FederatedDataModule)
        self.datamodule.take(facts_of(self.model))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the trainer with this package's callbacks around the user's own."""
        config = self._config()
        model = self.model
        assert isinstance(model, FederatedModule)
        _resolve_directions_per_forward(config, model)
        written = config.clone()
        for key, value in self._given.items():
            written[key] = value  # so that another number of ranks may go on with the run
        text = self._parser(self.subcommand).dump(written, skip_unset=False)
        plain = yaml.safe_load(text)
        # none of them changes a result; of blanks and scoring the data's own hashes say whether they did
        data = (plain.get("data") or {}).get("init_args", {})
        for key in ("cache", "cache_dir", "read_limits", "blanks", "scoring"):
            data.pop(key, None)
        if isinstance(data.get("task"), dict):
            data["task"].pop("scoring", None)
        plain["model"].pop("stages", None)
        model.config = {key: plain[key] for key in (*checkpoint.COMPARED, *checkpoint.WARNED) if key in plain}
        model.change_on_resume = list(config.change_on_resume)
        if self.config_init[str(self.subcommand)]["trainer"]["logger"] in (None, True) and self.subcommand == "fit":
            kwargs["logger"] = TensorBoardLogger(trainer_root(config), name="", version="", default_hp_metric=False)
        elif self.subcommand != "fit":
            kwargs["logger"] = False
        trainer = super().instantiate_trainer(**kwargs)
        own: list[Callback] = [callbacks.DeferredSignals(), callbacks.CompleteValidation()]
        own += [callbacks.RunFolder(text, self.start), callbacks.RunSummary(), PredictionWriter()]
        own += [callbacks.HostileClients(), callbacks.Attending()]
        own += [callbacks.PrivacyBudget()] if model.method.private else []
        if not isinstance(trainer.progress_bar_callback, (RoundProgressBar, type(None))):
            trainer.callbacks.remove(trainer.progress_bar_callback)  # type: ignore[attr-defined]
            own.append(RoundProgressBar())
        trainer.callbacks.extend(own)  # type: ignore[attr-defined]
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RoundLedger):
                callback.start = self.start
            if isinstance(callback, ModelCheckpoint) and str(callback.monitor).startswith("val/"):
                judge_by_own_validation(callback)
        if isinstance(trainer.strategy, ScalarStrategy):
            trainer.strategy.start = self.start
            trainer.strategy.configuration = of_the_launch(plain)
        return trainer

    def before_fit(self) -> None:
        """Compares a checkpoint with this run before anything is written or any rank is waited for."""
        assert isinstance(self.model, FederatedModule)
        if (privacy := getattr(self.model.method, "privacy", None)) is not None:
            check_installed(f"model.method.privacy={type(privacy).__name__}")
        if self.start.content is not None:
            checkpoint.compare(self.start.content, self.model.facts(), True, self.model.change_on_resume)
        if environment.rank() > 0:
            return
        make_folders(self.trainer.loggers, self.start.root)
        if self.start.resumes or self.start.owns_folder:
            go_on(self.trainer.loggers, self.start.root, self.start.rounds if self.start.resumes else -1)

    def after_fit(self) -> None:
        """Sees to it that this was the last round, and tests the final model if asked to."""
        trainer_options.check_reached(self.trainer)
        if interrupted(self.trainer) and self.trainer.is_global_zero:
            root, done, rounds = Path(trainer_root(self._config())), self.trainer.global_step, self.trainer.max_steps
            held, command = root / CHECKPOINTS_FOLDER / LAST, going_on.command(root)
            log.warning("Stopped after round %d of %d, which is in %s. Go on with: %s", done, rounds, held, command)
        if self._config().test_at_end and not interrupted(self.trainer):
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        kwargs["ckpt_path"] = self.start.source
        return kwargs | trainer_table.GIVEN[subcommand]

    def _config(self) -> Namespace:
        config = self.config.get(str(self.subcommand), self.config)
        assert isinstance(config, Namespace)
        return config


def trainer_root(config: Namespace) -> str:
    """The run's folder."""
    return str(config.trainer.default_root_dir or DEFAULT_ROOT)


def _check_scalar_only(config: Namespace) -> None:
    """Refuses to go on from the ledger of a method that keeps none; its class was imported when it was parsed."""
    module, _, name = config["model.method.class_path"].rpartition(".")
    if not getattr(sys.modules[module], name).scalar_only:
        raise ValueError(f"ckpt_path=ledger must be last: {name} is not scalar-only, and keeps no ledger")


def _resolve_directions_per_forward(config: Namespace, model: FederatedModule) -> None:
    """Writes the number that ``auto`` stands for into the configuration, so that the run's files hold it."""
    key = "model.method.init_args.directions_per_forward"
    if config.get(key) == "auto" and model.trainable():
        config[key] = model.new_optimizer().points_per_forward()
        log.info("directions_per_forward=auto is %d here.", config[key])
