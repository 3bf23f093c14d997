"""What a run's folder holds, by name."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from hiso_pl.ranks import environment
from hiso_pl.run.whole_file import whole_file

log = logging.getLogger(__name__)

CONFIG = "config.yaml"
SUMMARY = "summary.json"
LEDGER = "rounds.ledger"
CHECKPOINTS_FOLDER = "checkpoints"


def refuse_held(root: str, found: str | None) -> None:
    """Refuses a folder in which something of a run was found.

    Raises:
        ValueError: If something was.
    """
    if found is not None:
        raise ValueError(
            f"trainer.default_root_dir={root} already holds a run ({found}): "
            "give another folder, or resume it with --ckpt_path last"
        )


def held_by_run(root: Path) -> str | None:
    """What shows that ``root`` holds a run, if it does."""
    for name in (CONFIG, SUMMARY, LEDGER):
        if (root / name).exists():
            return name
    return CHECKPOINTS_FOLDER if checkpoints(root) else None


def checkpoints(root: Path) -> list[Path]:
    """The checkpoints of the run in ``root``, by name."""
    return sorted((root / CHECKPOINTS_FOLDER).glob("*.ckpt"))


def newest_checkpoint(root: Path | str, up_to: int | None = None) -> Path | None:
    """The checkpoint of the latest round in the run's folder, of several the one written last.

    The round is read from the files, as dates do not survive copying. One that cannot be read is passed over.

    Args:
        root: The run's folder.
        up_to: The latest round that is of use; any if none is given.
    """
    found: list[tuple[int, int, Path]] = []
    for path in checkpoints(Path(root)):
        try:
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            round = int(content["global_step"])
            if up_to is None or round <= up_to:
                found.append((round, path.stat().st_mtime_ns, path))
        except (OSError, RuntimeError, UnpicklingError, KeyError, TypeError, ValueError, EOFError) as error:
            log.warning("%s cannot be read and is passed over: %s", path, str(error).partition("\n")[0])
    return max(found)[-1] if found else None


def traceback_path(root: Path) -> Path:
    """Where this rank writes the traceback of an error; a folder with nothing else in it holds no run."""
    return root / ("traceback.txt" if environment.world_size() == 1 else f"traceback.rank-{environment.rank()}.txt")


def json_text(value: Any, indent: int | None = None) -> str:
    """A value as JSON, with null for the numbers that JSON has no word for."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that a stop at any time leaves the old one or the new one, whole."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
