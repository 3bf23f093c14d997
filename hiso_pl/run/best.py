"""The best checkpoint that a run has kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hiso_pl.run import checkpoint
from hiso_pl.run.folder import CHECKPOINTS_FOLDER


def best_kept(root: Path) -> Path:
    """The checkpoint that ``checkpoint.monitor`` prefers, as the run's newest checkpoint has noted it.

    Of the path that is noted there the name is taken, where it is a file among the run's checkpoints.

    Raises:
        ValueError: If there is none.
    """
    found = checkpoint.newest(root)
    if found is None:
        raise ValueError(f"ckpt_path=best: {root} holds no checkpoint that can be read")
    names: dict[str, str] = {}
    for key, state in found[1].get("callbacks", {}).items():
        if str(key).startswith("ModelCheckpoint") and isinstance(state, Mapping) and state.get("monitor") is not None:
            names[str(state["monitor"])] = Path(str(state.get("best_model_path", ""))).name
    if not names:
        raise ValueError(f"ckpt_path=best: the run in {root} keeps checkpoints by no metric: set checkpoint.monitor")
    if len(set(names.values())) > 1:
        raise ValueError(f"ckpt_path=best: the run in {root} keeps several by {', '.join(names)}: name one by its path")
    monitor, name = names.popitem()
    path = root / CHECKPOINTS_FOLDER / name
    if not name or path.is_symlink() or not path.is_file():
        raise ValueError(
            f"ckpt_path=best: the best by {monitor} is not in {path.parent} any more: name one by its path"
        )
    return path
