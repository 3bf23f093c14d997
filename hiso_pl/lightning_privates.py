"""All that rests on names Lightning keeps to itself; a test looks whether the installed one still has them.

What overrides a method of a class of Lightning's stands in that class: :class:`~hiso_pl.ranks.strategy.ScalarStrategy`,
the program's LightningCLI.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loops.fit_loop import _FitLoop
from tensorboard.compat.proto.summary_pb2 import Summary


def leave_signals_alone(trainer: Trainer) -> None:
    """Keeps Lightning's signal handlers out, and the collective of every round for a flag that nobody sets then."""
    trainer._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]


def deals_again(trainer: Trainer) -> bool:
    """Whether the trainer would deal the batches of a loader, which are dealt to the ranks already, once more."""
    connector = getattr(trainer, "_accelerator_connector", None)
    return bool(getattr(connector, "use_distributed_sampler", False) and getattr(connector, "is_distributed", False))


def end_after_this_round(trainer: Trainer) -> None:
    """Ends a fit without a validation; ``trainer.should_stop`` would validate, and would wait for ``min_steps``."""
    trainer.fit_loop.epoch_loop.max_steps = trainer.global_step
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


def log_together(board: TensorBoardLogger, points: Mapping[str, float], step: int) -> None:
    """Logs points of one step as one event; ``log_metrics`` makes one of each, which take more than twice the room."""
    prefix = f"{board._prefix}{board.LOGGER_JOIN_CHAR}" if board._prefix else ""
    values = [Summary.Value(tag=prefix + tag, simple_value=value) for tag, value in points.items()]
    board.experiment._get_file_writer().add_summary(Summary(value=values), step)


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


def _nothing() -> None:
    """Takes the place of a method of Lightning's."""
