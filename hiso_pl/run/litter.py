"""What a kill has left in a run's folder of files that were about to be replaced or removed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint

from hiso_pl.run.checkpoint import RunFacts
from hiso_pl.run.checkpoint_file import KEY, load
from hiso_pl.run.folder import BUDGET, CHECKPOINTS_FOLDER, CONFIG, LAST, LEDGER, PREDICTIONS, SUMMARY

log = logging.getLogger(__name__)

WHOLE = (CONFIG, SUMMARY, PREDICTIONS, LEDGER, BUDGET, f"{LEDGER}.safetensors", f"{LEDGER}.ckpt")
"""Files that are written beside their place first, under their name and ``.part``."""


def remove_parts(root: Path, folders: Iterable[Path] = ()) -> None:
    """Removes what was being written, and the checkpoint that earlier versions made of a ledger.

    Args:
        root: The run's folder.
        folders: Folders beside ``checkpoints`` that the run writes checkpoints to.
    """
    for name in WHOLE:
        (root / f"{name}.part").unlink(missing_ok=True)
    for folder in {root / CHECKPOINTS_FOLDER, *folders}:
        for part in folder.glob("*.ckpt.part"):
            part.unlink(missing_ok=True)
    rebuilt = root / f"{LEDGER}.ckpt"
    content = _read(rebuilt) if rebuilt.is_file() else None
    if content is not None and content[KEY]["rebuilt"]:
        rebuilt.unlink()


def remove_superseded(callback: ModelCheckpoint, mine: Callable[[], RunFacts], rounds: int, keep: Path | None) -> None:
    """Removes checkpoints of earlier rounds that others have taken the place of.

    A kill between the writing of one and the removal of another leaves both. Removed is what the file itself shows to
    be of this run, written under the same ``save_top_k``, and what the callback does not count among its best.

    Args:
        callback: The callback, its state restored.
        mine: Tells what a checkpoint says of this run; asked where there is something to compare, as it takes its time.
        rounds: The round that the run goes on from.
        keep: The checkpoint that it goes on from.
    """
    best = callback.best_k_models if callback.monitor else [callback.best_model_path] * bool(callback.best_model_path)
    if callback.save_top_k < 1 or len(best) < callback.save_top_k:
        return  # there is room
    known = {*best, callback.best_model_path, callback.last_model_path, str(keep)}
    for path in sorted(Path(str(callback.dirpath)).glob(f"*{callback.FILE_EXTENSION}")):
        content = None if str(path) in known or path.is_symlink() else _read(path)
        if content is None or content["global_step"] >= rounds or _name_of_last(callback, path):
            continue
        facts = content[KEY]
        written = RunFacts(facts["config"], facts["trainable"], facts["frozen"])
        if facts.get("retention", {}).get(callback.state_key) == callback.save_top_k and written == mine():
            path.unlink(missing_ok=True)
            log.info("Removed %s: a later checkpoint had taken its place when the run was killed.", path)


def _name_of_last(callback: ModelCheckpoint, path: Path) -> bool:
    return path.stem == callback.CHECKPOINT_NAME_LAST or path.name == LAST


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return load(path)
    except ValueError:
        return None  # not provably ours
