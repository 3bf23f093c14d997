"""The kinds of loggers that take more than numbers, or go on in a way of their own."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from numpy.typing import NDArray
from typing_extensions import override

from hiso_pl import lightning_privates
from hiso_pl.callbacks.boards import BEST, LAST, Bins, Board, Plain

BY_BYTES = "val_by_paper_bytes/"
GLANCE = "at a glance/"
FIRST_OPTIONS = ("method", "lr", "model", "partition", "task")


class CSVBoard(Board):
    """Rows of a file, ``metrics.csv``, and hyperparameters beside it."""

    logger: CSVLogger

    @override
    def _find_last_step(self, name: str) -> int:
        return lightning_privates.kept_steps(self.logger).get(name, -1)


class TensorBoard(Board):
    """TensorBoard, which takes everything.

    It shows groups of curves in the order of their names. So what is to be seen first, the loss in training since the
    last validation beside the metrics of this one, is shown once more under a name that comes first, and the Custom
    Scalars have an order that is told.
    """

    logger: TensorBoardLogger

    @override
    def points(self, points: Mapping[str, float], step: int) -> None:
        lightning_privates.log_together(self.logger, points, step)

    @override
    def validation(self, found: Mapping[str, float], best: Mapping[str, float], step: int, paper_bytes: int) -> None:
        self.points({**found, **{BEST + name.removeprefix(LAST): value for name, value in best.items()}}, step)
        self.points({BY_BYTES + name.removeprefix(LAST): value for name, value in found.items()}, paper_bytes)

    @override
    def hyperparameters(self, chosen: Mapping[str, Plain], metrics: Sequence[str]) -> None:
        lightning_privates.begin_session(self.logger, chosen, metrics, first=FIRST_OPTIONS)

    @override
    def text(self, name: str, text: str, step: int) -> None:
        self.logger.experiment.add_text(name, text, global_step=step)

    @override
    def picture(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        self.logger.experiment.add_image(name, pixels, global_step=step, dataformats="HWC")

    @override
    def histograms(self, found: Mapping[str, Bins], step: int) -> None:
        for name, (edges, counts) in found.items():
            middles = (edges[1:] + edges[:-1]) / 2
            self.logger.experiment.add_histogram_raw(
                name,
                min=edges[0],
                max=edges[-1],
                num=int(counts.sum()),
                sum=float(counts @ middles),
                sum_squares=float(counts @ middles**2),
                bucket_limits=edges[1:].tolist(),
                bucket_counts=counts.tolist(),
                global_step=step,
            )

    @override
    def glance(self, points: Mapping[str, float], step: int) -> None:
        self.points({GLANCE + name.replace("/", " "): value for name, value in points.items()}, step)

    @override
    def begin(self, paper_bytes: int) -> None:
        if self._rounds:
            self._restore_by_bytes(paper_bytes)
        self._arrange()

    def _restore_by_bytes(self, paper_bytes: int) -> None:
        """Draws again what TensorBoard takes back of the curves by bytes: it goes by steps, whatever they count."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(self.logger.log_dir, size_guidance={"scalars": 0}, purge_orphaned_data=False).Reload()
        beginning = lightning_privates.prefixed(self.logger, BY_BYTES)
        for tag in found.Tags()["scalars"]:
            if tag.startswith(beginning):
                points = {event.step: event.value for event in found.Scalars(tag)}
                for step in sorted(step for step in points if self._rounds < step <= paper_bytes):
                    self.points({BY_BYTES + tag.removeprefix(beginning): points[step]}, step)

    def _arrange(self) -> None:
        def chart(pattern: str) -> list[Any]:
            return ["Multiline", [pattern]]

        self.logger.experiment.add_custom_scalars(
            {
                "Training and validation": {
                    "loss": ["Multiline", ["^train/loss$", "^val/loss$"]],
                    "metrics of validation": chart("^val/(?!loss$)"),
                    "metrics of validation, by bytes sent (paper)": chart(f"^{BY_BYTES}(?!loss$)"),
                },
                "Communication": {"KB of a client: paper, protocol, and measured of a rank": chart("^comm/")},
                "Scalars": {
                    "size": chart("^scalar/(mean_abs|std|max_abs)$"),
                    "signal to noise": chart("^scalar/snr$"),
                    "headroom of own directions": chart("^scalar/headroom$"),
                    "slots dropped, slots of hostile clients": chart("^scalar/(dropped|hostile)$"),
                },
                "Hessian": {"quantiles of H": chart("^hessian/")},
                "Seconds of a round": {"whole, probes, update": chart("^time/(round|probe|update)_s$")},
                "Presence": {
                    "slots absent, rounds missed": chart("^presence/"),
                    "simulated seconds so far": chart("^time/simulated_s$"),
                },
                "Forward passes": {"of all clients so far": chart("^cost/")},
            }
        )


class WandbBoard(Board):
    """Weights & Biases. A run that is gone on with, by ``id``, keeps the points it has."""

    logger: WandbLogger

    @override
    def text(self, name: str, text: str, step: int) -> None:
        self.logger.log_text(f"{name}/text", columns=["text"], data=[[text]], step=step)

    @override
    def picture(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        self.logger.log_image(name, [pixels], step=step)

    @override
    def histograms(self, found: Mapping[str, Bins], step: int) -> None:
        import wandb  # type: ignore[import-not-found]

        bins = {name: wandb.Histogram(np_histogram=(counts, edges)) for name, (edges, counts) in found.items()}
        self.logger.log_metrics(bins, step=step)

    @override
    def _find_last_step(self, name: str) -> int:
        run = self.logger.experiment
        if not self._held and run.resumed:  # asked once, before anything is added
            self._held[""] = int(run.summary.get("trainer/global_step", -1))
        return self._held.setdefault("", -1)


class MLflowBoard(Board):
    """MLflow: texts and pictures are artifacts. A run that is gone on with, by ``run_id``, keeps the points it has."""

    logger: MLFlowLogger

    @override
    def hyperparameters(self, chosen: Mapping[str, Plain], metrics: Sequence[str]) -> None:
        held = self.logger.experiment.get_run(self.logger.run_id).data.params  # which cannot be changed
        super().hyperparameters({name: value for name, value in chosen.items() if name not in held}, metrics)

    @override
    def text(self, name: str, text: str, step: int) -> None:
        self.logger.experiment.log_text(self.logger.run_id, text, f"{name}.md")

    @override
    def picture(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        self.logger.experiment.log_image(self.logger.run_id, pixels, f"{name.replace('/', '_')}.png")

    @override
    def _find_last_step(self, name: str) -> int:
        full = lightning_privates.prefixed(self.logger, name)
        history = self.logger.experiment.get_metric_history(self.logger.run_id, full)
        return max((metric.step for metric in history), default=-1)


KINDS: dict[type[Logger], type[Board]] = {
    CSVLogger: CSVBoard,
    MLFlowLogger: MLflowBoard,
    TensorBoardLogger: TensorBoard,
    WandbLogger: WandbBoard,
}


def boards_of(trainer: Trainer) -> list[Board]:
    """The loggers of a trainer, on rank 0; the others have none."""
    found = trainer.loggers if trainer.is_global_zero else []
    kinds = [next((KINDS[base] for base in type(logger).__mro__ if base in KINDS), Board) for logger in found]
    return [kind(logger, trainer.global_step) for kind, logger in zip(kinds, found, strict=True)]


def go_on(loggers: Sequence[Logger], root: Path, rounds: int) -> None:
    """Has loggers of files go on where a resumed run does, before any of them opens its files; on rank 0.

    What lies beyond the round is taken back, as it is computed again. A logger that was not told a version goes on with
    its newest one if that lies in the run's own folder; elsewhere it may be another run's, and a new one is begun.

    Args:
        loggers: The trainer's loggers.
        root: The run's folder.
        rounds: Rounds done.
    """
    for logger in loggers:
        if isinstance(logger, CSVLogger | TensorBoardLogger):
            if Path(logger.root_dir).resolve().is_relative_to(root.resolve()):
                lightning_privates.take_newest_version(logger)
            if isinstance(logger, TensorBoardLogger):
                lightning_privates.purge_beyond(logger, rounds)
            else:
                lightning_privates.keep_rows(logger, rounds)


def make_folders(loggers: Sequence[Logger], root: Path) -> None:
    """Makes the folders of loggers of files elsewhere than in the run's own; on rank 0.

    Raises:
        ValueError: If one cannot be made, or not be written into.
    """
    for logger in loggers:
        if not isinstance(logger, CSVLogger | TensorBoardLogger) or Path(logger.root_dir).resolve() == root.resolve():
            continue
        try:
            Path(logger.root_dir).mkdir(parents=True, exist_ok=True)
            if not os.access(logger.root_dir, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise ValueError(
                f"trainer.logger: save_dir={logger.save_dir} cannot be made or written into "
                f"({error.strerror}): give a folder that you may write into"
            ) from error
