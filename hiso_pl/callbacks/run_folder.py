"""The folder of a run: one run to a folder, and its configuration in it."""

from __future__ import annotations

import functools
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from typing_extensions import override

from hiso_pl.callbacks.contract import OrderedCallback, callbacks_of, federated
from hiso_pl.ranks import launch_store
from hiso_pl.run import going_on, lock
from hiso_pl.run.folder import CONFIG, held_by_run, refuse_held, write_atomically
from hiso_pl.run.litter import remove_parts, remove_superseded
from hiso_pl.run.start import Start


class RunFolder(OrderedCallback):
    """Refuses a folder that already holds a run, and writes the configuration into its own.

    The configuration is written once the ranks have been compared, so that a launch that fails leaves nothing behind.
    A resumed run keeps a configuration that differs from its new one beside it, under the round of the change.

    Args:
        config_text: The resolved configuration, as YAML.
        start: Where the run goes on from.
    """

    position = 20

    def __init__(self, config_text: str = "", start: Start | None = None) -> None:
        self.config_text = config_text
        self.start = start
        self._held = False

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks into the folder, on rank 0 for all; only now does the trainer know whether it resumes.

        Raises:
            ValueError: If another process writes into the folder, or it holds a run that this one does not resume.
        """
        said = None
        if trainer.is_global_zero:
            try:
                self._look(trainer)
            except (ValueError, OSError) as error:
                said = str(error)
        said = trainer.strategy.broadcast(said)
        if said is not None:
            raise ValueError(said)

    def _look(self, trainer: Trainer) -> None:
        root = trainer.default_root_dir
        self._held = lock.hold(root) or self._held
        owned = self.start is not None and self.start.owns_folder
        if not trainer.ckpt_path and not owned and not launch_store.has_begun(root):
            refuse_held(root, held_by_run(Path(root)))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the configuration, and removes what a kill has left of an earlier part of the run."""
        going_on.begun(Path(trainer.default_root_dir))
        if not trainer.is_global_zero:
            return
        _clear(trainer, pl_module)
        if not self.config_text:
            return
        path = Path(trainer.default_root_dir) / CONFIG
        if path.exists() and path.read_text(encoding="utf-8") != self.config_text:
            path.replace(path.with_name(f"config.until-round-{trainer.global_step}.yaml"))
        write_atomically(path, self.config_text)
        launch_store.note_begun(trainer.default_root_dir)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._let_go(trainer)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._let_go(trainer)

    def _let_go(self, trainer: Trainer) -> None:
        """Lets go of a folder that the program has not taken before."""
        if self._held:
            lock.release(trainer.default_root_dir)
            self._held = False


def _clear(trainer: Trainer, pl_module: LightningModule) -> None:
    """Removes what a kill has left of an earlier part of the run."""
    saving = callbacks_of(trainer, ModelCheckpoint)
    remove_parts(Path(trainer.default_root_dir), [Path(str(callback.dirpath)) for callback in saving])
    if trainer.ckpt_path and trainer.global_step > 0 and hasattr(pl_module, "facts"):
        facts = functools.cache(federated(pl_module).facts)
        for callback in saving:
            remove_superseded(callback, facts, trainer.global_step, Path(str(trainer.ckpt_path)))


def config_text(trainer: Trainer) -> str:
    """The resolved configuration of the trainer's run, as YAML; empty if it has none."""
    return next((callback.config_text for callback in callbacks_of(trainer, RunFolder)), "")
