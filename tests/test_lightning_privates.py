"""What Lightning keeps to itself and this package rests on is there, and is touched in one file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.strategies import DDPStrategy, strategy
from torch.utils.tensorboard import SummaryWriter

import hiso_pl
from hiso_pl import lightning_privates

PACKAGE = Path(hiso_pl.__file__).parent
HOME = PACKAGE / "lightning_privates.py"
NOT_LIGHTNINGS = {"_exit", "_run_exitfuncs", "_opt_called", "_replace"}  # os's, atexit's, torch's, of named tuples


def private_attributes(path: Path) -> set[str]:
    """Names with one underscore in front that a file takes from anything but an object of its own class."""
    return {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
        and not isinstance(node.value, ast.Call)  # super()
    }


def test_they_are_touched_in_one_file():
    users = [path for path in PACKAGE.rglob("*.py") if "lightning.pytorch" in path.read_text() and path != HOME]
    assert {path.name: found for path in users if (found := private_attributes(path) - NOT_LIGHTNINGS)} == {}


@pytest.fixture
def trainer():
    return Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")


def test_they_are_there(trainer):
    loop, connector = trainer.fit_loop, trainer._logger_connector
    found = {
        "_signal_connector": callable(trainer._signal_connector.register_signal_handlers),
        "_broadcast_sigterm_tensor": callable(loop.epoch_loop._broadcast_sigterm_tensor),
        "_skip_next_val": loop.epoch_loop._skip_next_val is False,
        "_batches_that_stepped": loop.epoch_loop._batches_that_stepped == 0,
        "_every_n_train_steps": ModelCheckpoint(every_n_train_steps=3)._every_n_train_steps == 3,
        "_defer_save_until_validation": ModelCheckpoint()._defer_save_until_validation is False,
        "_restarting": loop._restarting is False,
        "_logger_connector": connector is not None,
        "_first_loop_iter": hasattr(connector, "_first_loop_iter"),
        "_prefix": TensorBoardLogger(".", prefix="a")._prefix == "a",
        "_kwargs": TensorBoardLogger(".", purge_step=3)._kwargs["purge_step"] == 3,
        "_version": CSVLogger(".")._version is None and TensorBoardLogger(".")._version is None,
        "_experiment": CSVLogger(".")._experiment is None,
        "_optimizers_to_device": callable(strategy._optimizers_to_device),
        "_get_file_writer": callable(SummaryWriter._get_file_writer),  # torch's, behind the logger
    }
    assert all(found.values()), found
    assert set(found) == private_attributes(HOME)
    assert callable(ExperimentWriter._check_log_dir_exists)  # which is overridden
    assert type(loop) is _FitLoop
    assert loop.epoch_loop.val_loop.restarting is False


def test_a_stop_iteration_of_a_hook_is_an_error_in_every_loop(trainer):
    lightning_privates.refuse_stop_iteration(trainer)
    lightning_privates.refuse_stop_iteration(trainer)
    fit, epoch = trainer.fit_loop, trainer.fit_loop.epoch_loop
    wrapped = [
        *(fit.on_advance_start, fit.advance, fit.on_advance_end, epoch.advance, epoch.on_advance_end),
        epoch.manual_optimization.advance,
        *(loop._evaluation_step for loop in (epoch.val_loop, trainer.validate_loop, trainer.test_loop)),
        trainer.predict_loop._predict_step,
    ]
    for method in wrapped:
        assert method.func is lightning_privates._unstoppable
        assert callable(method.args[0])
        assert not hasattr(method.args[0], "func")

    def stop() -> None:
        raise StopIteration("enough")

    with pytest.raises(RuntimeError, match=r"StopIteration \(enough\) was let out by a hook"):
        lightning_privates._unstoppable(stop)


@pytest.mark.parametrize(
    ("kind", "names"),
    [  # overridden in subclasses, or called by them
        (DDPStrategy, ("_configure_launcher", "_get_process_group_backend", "_setup_model")),
        (LightningCLI, ("_parse_ckpt_path", "_parser", "_prepare_subcommand_kwargs")),
        (TQDMProgressBar, ("_should_update",)),
    ],
)
def test_what_subclasses_override_is_there(kind, names):
    assert [name for name in names if not callable(getattr(kind, name, None))] == []


def test_what_the_strategy_reads_of_its_base_is_there():
    strategy = DDPStrategy(process_group_backend="gloo")
    assert (strategy._process_group_backend, strategy._timeout.total_seconds()) == ("gloo", 1800.0)
