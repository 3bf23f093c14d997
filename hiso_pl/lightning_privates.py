"""All that rests on names Lightning keeps to itself; a test looks whether the installed one still has them.

What overrides a method of a class of Lightning's stands in that class: :class:`~hiso_pl.ranks.strategy.ScalarStrategy`,
the program's LightningCLI.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.strategies import strategy
from tensorboard.compat.proto.summary_pb2 import Summary

from hiso_pl.run.whole_file import whole_file


def leave_signals_alone(trainer: Trainer) -> None:
    """Keeps Lightning's signal handlers out, and the collective of every round for a flag that nobody sets then."""
    trainer._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]


def deals_again(trainer: Trainer) -> bool:
    """Whether the trainer would deal the batches of a loader, which are dealt to the ranks already, once more."""
    connector = getattr(trainer, "_accelerator_connector", None)
    return bool(getattr(connector, "use_distributed_sampler", False) and getattr(connector, "is_distributed", False))


def end_after_this_round(trainer: Trainer, validate: bool = False) -> None:
    """Ends a fit, if asked to with the validation that is due, and else without.

    ``trainer.should_stop`` would validate in any case, and would wait for ``min_steps``.
    """
    trainer.fit_loop.epoch_loop.max_steps = trainer.global_step
    if not validate:
        trainer.fit_loop.epoch_loop._skip_next_val = True


def start_and_end_when_done(trainer: Trainer, started: Callable[[], bool]) -> None:
    """Has a fit without a round left go through its start and end, where Lightning calls no hook.

    Args:
        trainer: The trainer, whose fit is about to run.
        started: Tells whether its start has been gone through.
    """
    trainer.fit_loop.run = functools.partial(_run, trainer.fit_loop, started)  # type: ignore[method-assign]


def _run(loop: _FitLoop, started: Callable[[], bool]) -> None:
    type(loop).run(loop)
    if not started() and loop.max_steps >= 0 and loop.epoch_loop.global_step >= loop.max_steps:
        loop.reset()
        loop.on_run_start()
        loop._restarting = False
        loop.on_run_end()


def judge_by_own_validation(saving: ModelCheckpoint) -> None:
    """Has a checkpoint that is due wait for the next validation, where it is judged by one's metric.

    Lightning saves it at once, before the validation of its own round, and judges it by what the last one found: by the
    metric of another state.
    """

    def note(trainer: Trainer, *_: Any) -> None:
        every = saving._every_n_train_steps
        if every >= 1 and trainer.global_step % every == 0:
            saving._defer_save_until_validation = True

    saving.on_train_batch_end = note  # type: ignore[assignment, method-assign]


def log_at_the_round(trainer: Trainer) -> None:
    """Keeps the loggers' step equal to the round; a checkpoint written in a validation holds one less."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step


def validate_now(trainer: Trainer) -> None:
    """Runs the validation loop as the training loop would have after the last round."""
    loop, connector = trainer.fit_loop.epoch_loop, trainer._logger_connector
    first_iteration, stepped = connector._first_loop_iter, loop._batches_that_stepped
    loop._batches_that_stepped = trainer.global_step - 1  # the step of the round's own curves
    loop.val_loop.restarting = False  # or it would go on from the batch counts in the checkpoint
    trainer.validating = True
    loop.val_loop.run()
    trainer.training = True
    connector._first_loop_iter, loop._batches_that_stepped = first_iteration, stepped


def prefixed(logger: MLFlowLogger | TensorBoardLogger, name: str) -> str:
    """A curve's name as the logger spells it."""
    return f"{logger._prefix}{logger.LOGGER_JOIN_CHAR}{name}" if logger._prefix else name


def log_together(board: TensorBoardLogger, points: Mapping[str, float], step: int) -> None:
    """Logs points of one step as one event; ``log_metrics`` makes one of each, which take more than twice the room."""
    values = [Summary.Value(tag=prefixed(board, tag), simple_value=value) for tag, value in points.items()]
    board.experiment._get_file_writer().add_summary(Summary(value=values), step)


def begin_session(
    board: TensorBoardLogger, chosen: Mapping[str, str | float], metrics: Sequence[str], first: Collection[str]
) -> None:
    """Enters a run into the table of hyperparameters, with the curves whose last points are its metrics.

    ``log_hyperparams`` would add a point to each of these curves. TensorBoard has room for five options at first: it
    takes those that are said to differ.
    """
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from torch.utils.tensorboard.summary import hparams

    experiment, session, _ = hparams(dict(chosen), {prefixed(board, name): 0.0 for name in metrics})
    kept = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(kept.content)
    for option in content.experiment.hparam_infos:
        option.differs = option.name in first
    kept.content = content.SerializeToString()
    for summary in (experiment, session):
        board.experiment._get_file_writer().add_summary(summary)


def take_newest_version(logger: CSVLogger | TensorBoardLogger) -> None:
    """Has a logger that was not told a version go on with the newest one that it has written to, where there is one."""
    if logger._version is None:
        files = "metrics.csv" if isinstance(logger, CSVLogger) else "events.out.tfevents.*"
        found = [path.parent.name.removeprefix("version_") for path in Path(logger.root_dir).glob(f"version_*/{files}")]
        logger._version = max((int(version) for version in found if version.isdigit()), default=None)


def purge_beyond(board: TensorBoardLogger, rounds: int) -> None:
    """Has TensorBoard take back the points of later rounds, unless the logger is told where from."""
    board._kwargs.setdefault("purge_step", rounds + 1)


class _KeptRows(ExperimentWriter):
    """A writer of rows that goes on with those of its file up to a round; Lightning's begins by removing the file.

    The file stays as it is until there is a row to add.
    """

    def __init__(self, folder: str, rounds: int) -> None:
        super().__init__(folder)
        self.steps: dict[str, int] = {}
        self._kept: list[dict[str, str]] | None = None
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        try:
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                rows, self.metrics_keys = list(reader), list(reader.fieldnames or [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path} must hold the rows of the run so far: {error}; move it away") from error
        if rows and "step" not in self.metrics_keys:
            raise ValueError(f"{path} must hold the rows of the run so far: there is no column step; move it away")
        self._kept = [row for row in rows if (row["step"] or "").isdigit() and int(row["step"]) <= rounds]
        for row in self._kept:
            self.steps |= {name: int(row["step"]) for name, value in row.items() if value}

    def save(self) -> None:
        if self.metrics and self._kept is not None:
            with whole_file(Path(self.metrics_file_path)) as part, part.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, fieldnames=self.metrics_keys, extrasaction="ignore")
                writer.writeheader()
                writer.writerows(self._kept)
            self._kept = None
        super().save()

    def _check_log_dir_exists(self) -> None:
        """Removes nothing."""


def keep_rows(logger: CSVLogger, rounds: int) -> None:
    """Has a CSVLogger that has not begun yet go on with the rows of its file up to a round."""
    logger._experiment = _KeptRows(logger.log_dir, rounds)


def kept_steps(logger: CSVLogger) -> Mapping[str, int]:
    """The last step of each curve among the rows that a CSVLogger has gone on with."""
    return getattr(logger.experiment, "steps", {})


def refuse_stop_iteration(trainer: Trainer) -> None:
    """Makes an error of a StopIteration that a hook, a step or an example lets out.

    Lightning takes it for the end of the data: a fit would begin epoch after epoch, a measurement leave out the rest.
    """
    fit, epoch = trainer.fit_loop, trainer.fit_loop.epoch_loop
    for loop, names in (
        (fit, ("on_advance_start", "advance", "on_advance_end")),
        (epoch, ("advance", "on_advance_end")),
        (epoch.manual_optimization, ("advance",)),
        *((loop, ("_evaluation_step",)) for loop in (epoch.val_loop, trainer.validate_loop, trainer.test_loop)),
        (trainer.predict_loop, ("_predict_step",)),
    ):
        for name in names:
            if name not in vars(loop):
                setattr(loop, name, functools.partial(_unstoppable, getattr(loop, name)))


def _unstoppable(method: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    try:
        method(*args, **kwargs)
    except StopIteration as error:
        raise RuntimeError(
            f"StopIteration{f' ({error})' if str(error) else ''} was let out by a hook, a step or an example, where "
            "it would count as the end of the data"
        ) from error


@contextmanager
def optimizers_stay() -> Iterator[None]:
    """Strategies that are set up inside the block leave an optimizer's state where it was made: where it lives."""
    before = strategy._optimizers_to_device  # type: ignore[attr-defined]
    strategy._optimizers_to_device = _nothing  # type: ignore[assignment, attr-defined]
    try:
        yield
    finally:
        strategy._optimizers_to_device = before  # type: ignore[attr-defined]


def _nothing(*args: Any) -> None:
    """Takes the place of a function of Lightning's."""
