"""Every option of Lightning's is decided: it acts, or it is refused with what to set."""

from __future__ import annotations

import csv
import functools
import inspect
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer, callbacks

from hiso_pl.cli import program as cli
from hiso_pl.cli import running, trainer_options, trainer_table
from hiso_pl.cli.run import FederatedCLI

from .conftest import of_class

pytestmark = pytest.mark.usefixtures("process_settings")

DATA = {"model", "dataloaders", "train_dataloaders", "val_dataloaders", "datamodule"}
LIGHTNING = "lightning.pytorch.callbacks"
WORKS = {  # callbacks of Lightning's that act
    *("BasePredictionWriter", "Callback", "Checkpoint", "DeviceStatsMonitor", "EarlyStopping", "LambdaCallback"),
    *("LearningRateMonitor", "ModelCheckpoint", "ModelSummary", "RichModelSummary", "ThroughputMonitor"),
}
REFUSED = {  # option: (value, what is said)
    "accelerator": ("tpu", "tpu must be cpu, gpu or auto"),
    "strategy": ("ddp", "ddp must be scalar"),
    "devices": ("two", "two must be a number of processes"),
    "num_nodes": ("2", "2 must be 1, as torchrun did not start this process"),
    "precision": ("bf16-true", "bf16-true must be 32-true"),
    "fast_dev_run": ("2", r"2 must be false: set trainer\.max_steps=1"),
    "max_epochs": ("3", "3 must be -1"),
    "min_epochs": ("1", "1 must be null"),
    "max_steps": ("-1", "-1 must be at least 1"),
    "min_steps": ("2", "2 must be null"),
    "max_time": ("00:00:01:00", "must be null: .* `timeout --signal TERM`"),
    "limit_train_batches": ("2", r"2 must be 1\.0: rounds are counted by trainer\.max_steps"),
    "limit_val_batches": ("1", r"1 must be 1\.0 or 0"),
    "limit_test_batches": ("0.5", r"0\.5 must be 1\.0 or 0"),
    "limit_predict_batches": ("0", r"0 must be 1\.0"),
    "overfit_batches": ("1", "1 must be 0: give the data module fewer"),
    "val_check_interval": ("0", "0 must be an integer of at least 1"),
    "check_val_every_n_epoch": ("1", r"1 must be null: .*set trainer\.val_check_interval"),
    "num_sanity_val_steps": ("2", "2 must be -1"),
    "log_every_n_steps": ("0", "0 must be at least 1"),
    "enable_checkpointing": ("false", r"False must be true: .*checkpoint\.save_top_k=0"),
    "accumulate_grad_batches": ("2", "2 must be 1: a round has no gradient"),
    "gradient_clip_val": ("0.5", r"0\.5 must be null: a round has no gradient"),
    "gradient_clip_algorithm": ("norm", "norm must be null"),
    "deterministic": ("true", "True must be null: set --deterministic"),
    "benchmark": ("true", "True must be false"),
    "inference_mode": ("false", "False must be true"),
    "use_distributed_sampler": ("true", "True must be false"),
    "profiler": ("xla", "xla must be simple, advanced, pytorch or a class"),
    "detect_anomaly": ("true", "True must be false"),
    "barebones": ("true", "True must be false: hiso-pl bench"),
    "plugins": ("lightning.pytorch.plugins.DoublePrecision", "must be null"),
    "sync_batchnorm": ("true", "True must be false"),
    "reload_dataloaders_every_n_epochs": ("1", "1 must be 0"),
    "default_root_dir": ("s3://bucket/run", "s3://bucket/run must be a folder of this machine"),
    "enable_autolog_hparams": ("false", "False must be true"),
    "model_registry": ("name", "name must be null: hiso-pl export"),
}
ALSO_REFUSED = [
    ("val_check_interval", "0.5", r"0\.5 must be an integer"),
    ("val_check_interval", "00:00:01:00", "must be an integer"),
    ("overfit_batches", "0.1", r"0\.1 must be 0"),
    ("limit_train_batches", "0.5", r"0\.5 must be 1\.0"),
    ("devices", "0", "0 must be a number of processes"),
    ("strategy", "auto", "auto must be scalar"),
    ("strategy", of_class("lightning.pytorch.strategies.DDPStrategy"), r"DDPStrategy must be scalar .*ScalarStrategy"),
    ("log_every_n_steps", "5", r"5 must be 1 .*board\.every_n_rounds"),
    ("callbacks", of_class(f"{LIGHTNING}.Timer", duration="00:00:01:00"), "Timer cannot act: .*timeout --signal TERM"),
    ("callbacks+", of_class(f"{LIGHTNING}.TQDMProgressBar"), "TQDMProgressBar cannot act: .*RoundProgressBar"),
    ("callbacks+", of_class(f"{LIGHTNING}.EMAWeightAveraging"), "EMAWeightAveraging cannot act: .*ledger"),
]


class Parsed(BaseException):
    """Carries the program out of the run that it was about to begin."""


@pytest.fixture(scope="module")
def check(base):
    """What is said of a run's options, by one parser for each command."""

    class Parsing(FederatedCLI):
        def before_instantiate_classes(self) -> None:
            raise Parsed(self)

    @functools.cache
    def parser_of(command: str) -> Any:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(running, "FederatedCLI", Parsing)
            with pytest.raises(Parsed) as parsed:
                running.run([command, *base[1:]])
        return parsed.value.args[0].parser

    def check(*args: str, command: str = "fit") -> None:
        trainer_options.check(parser_of(command).parse_args([command, *base[1:], *args])[command], command)

    return check


def test_the_table_holds_every_option_of_this_lightning():
    options = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    assert set(trainer_table.TRAINER) == options
    for command, given in trainer_table.GIVEN.items():
        parameters = set(inspect.signature(getattr(Trainer, command)).parameters)
        assert parameters - {"self"} - DATA - set(given) == {"ckpt_path"}
    assert set(trainer_table.GIVEN) == set(FederatedCLI.subcommands())


def test_every_callback_of_lightning_is_decided():
    refused = (callbacks.ProgressBar, *trainer_table.CALLBACKS)
    acting = {name for name in callbacks.__all__ if not issubclass(getattr(callbacks, name), refused)}
    assert acting == WORKS


def test_every_option_that_may_be_refused_is_seen_to_be():
    decided = {name for name, decision in trainer_table.TRAINER.items() if decision.values is not None}
    assert decided | {"num_nodes"} == set(REFUSED)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [*((name, *case) for name, case in REFUSED.items()), *ALSO_REFUSED],
    ids=lambda text: str(text)[:40],
)
def test_what_cannot_act_is_refused_with_what_to_set(check, name, value, message):
    with pytest.raises(ValueError, match=rf"trainer\.{name.strip('+')}=.*{message}") as refused:
        check(f"--trainer.{name}", value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("command", "args", "message"),
    [
        ("validate", ["--trainer.limit_val_batches", "0"], r"limit_val_batches=0 must be 1\.0: validate asks"),
        ("test", ["--trainer.limit_test_batches", "0"], r"limit_test_batches=0 must be 1\.0: test asks"),
        ("fit", ["--trainer.limit_test_batches", "0", "--test_at_end", "true"], "test_at_end asks"),
        ("fit", ["--trainer.limit_val_batches", "0", "--checkpoint.monitor", "val/loss"], "monitor=val/loss asks"),
        (
            "fit",
            ["--trainer.limit_val_batches", "0", "--model.lr_scheduler", "torch.optim.lr_scheduler.ReduceLROnPlateau"],
            r"lr_scheduler=ReduceLROnPlateau asks",
        ),
    ],
)
def test_a_measurement_that_is_asked_for_and_left_out_is_refused(check, command, args, message):
    with pytest.raises(ValueError, match=message):
        check(*args, command=command)


@pytest.mark.parametrize("args", [["fit", "--weights_only", "false"], ["predict", "--return_predictions", "true"]])
def test_what_the_program_gives_itself_is_no_option(args, capsys):
    assert cli.main(args) == 2
    assert args[1] in capsys.readouterr().err


ALL_AT_ONCE = [
    *(
        "--trainer.accelerator",
        "cpu",
        "--trainer.devices",
        "1",
        "--trainer.num_nodes",
        "1",
        "--trainer.strategy",
        "scalar",
    ),
    *("--trainer.precision", "32", "--trainer.max_epochs", "null", "--trainer.limit_train_batches", "1.0"),
    *(
        "--trainer.limit_val_batches",
        "1.0",
        "--trainer.limit_test_batches",
        "0",
        "--trainer.limit_predict_batches",
        "1.0",
    ),
    *("--trainer.overfit_batches", "0.0", "--trainer.fast_dev_run", "false", "--trainer.benchmark", "false"),
    *("--trainer.plugins", "[]", "--trainer.enable_checkpointing", "true", "--trainer.num_sanity_val_steps", "0"),
    *(
        "--trainer.enable_progress_bar",
        "true",
        "--trainer.enable_model_summary",
        "true",
        "--trainer.log_every_n_steps",
        "2",
    ),
    *(
        "--trainer.profiler",
        "simple",
        "--trainer.logger",
        of_class("lightning.pytorch.loggers.CSVLogger", save_dir="{csv}"),
    ),
    *("--trainer.callbacks+", of_class(f"{LIGHTNING}.LearningRateMonitor")),
    *("--trainer.callbacks+", of_class(f"{LIGHTNING}.DeviceStatsMonitor", cpu_stats=True)),
    *("--trainer.callbacks+", of_class(f"{LIGHTNING}.EarlyStopping", monitor="val/loss", patience=100)),
    *("--trainer.callbacks+", of_class(f"{LIGHTNING}.ModelCheckpoint", every_n_train_steps=2, save_top_k=-1)),
]


@pytest.fixture
def fit(base, tmp_path, capsys, caplog):
    """A short run in a folder of its own: its status, its summary if it has one, and all that it said."""

    def fit(name: str, *args: str):
        root = tmp_path / name
        filled = [arg.replace("{csv}", str(tmp_path / "csv")) for arg in args]
        own = ("--trainer.max_steps", "4", "--trainer.val_check_interval", "2", "--trainer.default_root_dir", str(root))
        with caplog.at_level(logging.INFO):
            status = cli.main([*base, *own, *filled])
        told, path = capsys.readouterr(), root / "summary.json"
        summary = json.loads(path.read_text()) if path.exists() else None
        return status, summary, told.out + told.err + caplog.text

    return fit


def test_the_options_that_act_change_nothing_but_what_they_are_for(fit, tmp_path):
    status, plain, _ = fit("plain", "--checkpoint.save_top_k", "0")
    assert status == 0
    assert [path.name for path in (tmp_path / "plain" / "checkpoints").iterdir()] == ["last.ckpt"]
    status, summary, said = fit("all", *ALL_AT_ONCE)
    assert status == 0, said
    assert summary["digest"] == plain["digest"]
    assert summary["metrics"]["val/loss"]["last"] == plain["metrics"]["val/loss"]["last"]
    [path] = Path(tmp_path / "csv").rglob("metrics.csv")
    columns = set(next(csv.reader(path.open())))
    assert {"lr-ZerothOrderOptimizer", "train/loss", "val/loss"} <= columns
    assert any("cpu_percent" in column for column in columns)
    assert "FIT Profiler Report" in said
    assert "Trainable params" in said
    assert len(list((tmp_path / "all").rglob("*-step=*.ckpt")) + list((tmp_path / "csv").rglob("*.ckpt"))) >= 2


@pytest.mark.parametrize("profiler", ["advanced", "pytorch"])
def test_profilers_tell_what_they_have_found(fit, profiler):
    status, _, said = fit("profiled", "--trainer.profiler", profiler, "--trainer.logger", "false")
    assert status == 0
    assert "FIT Profiler Report" in said


def test_validations_may_be_left_out(fit):
    status, summary, _ = fit("none", "--trainer.limit_val_batches", "0.0", "--trainer.logger", "false")
    assert (status, summary["rounds"], summary["metrics"]) == (0, 4, {})


class Stopping(Callback):
    """Asks the trainer to stop after a round."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        trainer.should_stop = trainer.global_step == 1


def test_a_run_that_is_stopped_before_its_last_round_has_failed_unless_its_patience_ended(fit):
    early = of_class(f"{LIGHTNING}.EarlyStopping", monitor="val/loss", stopping_threshold=1e9)
    status, summary, said = fit("early", "--trainer.callbacks+", early, "--trainer.logger", "false")
    assert (status, summary["rounds"]) == (0, 2)
    assert re.search("Stopped after round 2 of 4: .*threshold", said)
    stopping = of_class(f"{Stopping.__module__}.Stopping")
    status, _, said = fit("stopped", "--trainer.callbacks+", stopping, "--trainer.logger", "false")
    assert status == 1
    assert "the run ended after round 1 of 4: a callback asked the trainer to stop" in said


def test_a_resumed_run_goes_on_in_the_files_of_its_loggers(fit, tmp_path):
    root = tmp_path / "csv"
    logger = ("--trainer.logger", of_class("lightning.pytorch.loggers.CSVLogger", save_dir=str(root)))
    status, _, said = fit("csv", *logger)
    assert status == 0, said
    status, _, said = fit("csv", *logger, "--ckpt_path", "last", "--trainer.max_steps", "6")
    assert status == 0, said
    [path] = root.rglob("metrics.csv")
    rows = list(csv.DictReader(path.open(newline="")))
    assert [int(row["step"]) for row in rows if row["train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert [int(row["step"]) for row in rows if row["val/loss"]] == [0, 2, 4, 6]
