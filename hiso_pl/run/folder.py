"""What a run's folder holds, by name."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hiso_pl.ranks import environment
from hiso_pl.run.whole_file import whole_file

DEFAULT_ROOT = "runs/default"
CONFIG = "config.yaml"
SUMMARY = "summary.json"
LEDGER = "rounds.ledger"
BUDGET = "privacy.jsonl"
PREDICTIONS = "predictions.jsonl"
CHECKPOINTS_FOLDER = "checkpoints"
LAST = "last.ckpt"
BETTER_LOW = ("loss", "error", "perplexity")
"""How the names of those metrics end of which less is better."""


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
    for name in (CONFIG, SUMMARY, LEDGER, BUDGET):
        if (root / name).exists():
            return name
    return CHECKPOINTS_FOLDER if checkpoints(root) else None


def run_around(path: Path) -> Path | None:
    """The folder of the run that a file lies in, beside its ledger or among its checkpoints, if it does."""
    parent = path.absolute().parent
    folder = parent.parent if parent.name == CHECKPOINTS_FOLDER else parent
    return folder if held_by_run(folder) else None


def checkpoints(root: Path) -> list[Path]:
    """The checkpoints of the run in ``root``, by name."""
    return sorted((root / CHECKPOINTS_FOLDER).glob("*.ckpt"))


def went_through(summary: Mapping[str, Any], rounds: str | None) -> bool:
    """Whether a summary is of a run that went through so many rounds, or through all that its privacy allowed."""
    privacy = summary.get("privacy")
    return str(summary["rounds"]) == rounds or (isinstance(privacy, Mapping) and bool(privacy.get("ended")))


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
