"""What a run takes from a checkpoint for Lightning, which takes what it is given as it is.

Counters of loops follow from the round, so they are made anew. State of the callbacks of this package and of
Lightning's must have the names that they give it themselves. What ModelCheckpoint will remove one day it knows by
paths: of these the last part is taken, where it is a checkpoint in the folder that this run writes to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

_OURS = ("hiso_pl.", "lightning.")


def counters_after(rounds: int) -> dict[str, Any]:
    """Lightning's counters of a fit after so many rounds."""
    steps = {"ready": rounds, "completed": rounds}
    batches = {**steps, "started": rounds, "processed": rounds}
    return {
        "state_dict": {},
        "epoch_loop.state_dict": {"_batches_that_stepped": rounds},
        "epoch_loop.batch_progress": {"total": batches, "current": dict(batches), "is_last_batch": False},
        "epoch_loop.manual_optimization.optim_step_progress": {"total": steps, "current": dict(steps)},
    }


def without_counters(content: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint without what Lightning would act on before anybody is asked: it migrates what old versions wrote."""
    kept = {key: value for key, value in content.items() if key not in ("loops", "native_amp_scaling_state")}
    return {**kept, "epoch": 0, "pytorch-lightning_version": metadata.version("lightning")}


def retention(trainer: Trainer) -> dict[str, int]:
    """How many checkpoints each ModelCheckpoint of the run keeps, by its ``state_key``."""
    found: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return {callback.state_key: callback.save_top_k for callback in found if isinstance(callback, ModelCheckpoint)}


def keep_known(content: dict[str, Any], trainer: Trainer) -> None:
    """Leaves of a checkpoint, which has been checked, what Lightning may restore; in place.

    Raises:
        ValueError: If the state of a callback is none that the callback gives.
    """
    if trainer.state.fn == "fit":
        content["loops"] = {"fit_loop": counters_after(content["global_step"])}
    content.pop(type(trainer.precision_plugin).__qualname__, None)  # a run is of fp32, which has no state
    states = dict(content.get("callbacks", {}))
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if callback.state_key in states:
            states[callback.state_key] = _state_of(callback, states[callback.state_key])
    content["callbacks"] = states


def _state_of(callback: Callback, saved: Any) -> Any:
    if not type(callback).__module__.startswith(_OURS) and not isinstance(callback, ModelCheckpoint):
        return saved  # plain data, whose meaning is its own
    name, mine = type(callback).__name__, callback.state_dict()
    if not isinstance(saved, Mapping) or set(saved) != set(mine):
        raise ValueError(f"the checkpoint is damaged: the state of {name} must be {', '.join(mine)}")
    for key, value in mine.items():
        if not _alike(saved[key], value):
            raise ValueError(f"the checkpoint is damaged: {key} of {name} must be {_kind(value)}")
    return _within(callback, saved) if isinstance(callback, ModelCheckpoint) else saved


def _alike(saved: Any, mine: Any) -> bool:
    """Whether a value is of the kind that a callback itself gives; where it has none yet, a number or a word."""
    if mine is None:
        return saved is None or isinstance(saved, int | float | str) or _is_number(saved)
    if isinstance(mine, Tensor):
        return _is_number(saved)
    if isinstance(mine, float):
        return type(saved) in (int, float) and math.isfinite(saved)
    if isinstance(mine, Mapping):
        return isinstance(saved, Mapping)
    return type(saved) is type(mine)


def _is_number(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1


def _kind(value: Any) -> str:
    return "a mapping" if isinstance(value, Mapping) else "a number" if value is None else type(value).__name__


def _within(callback: ModelCheckpoint, saved: Mapping[str, Any]) -> dict[str, Any]:
    """ModelCheckpoint's state, with the files that are where this run writes them."""
    folder = Path(str(callback.dirpath))

    def known(path: Any) -> str:
        name = Path(str(path)).name
        place = folder / name
        there = name.endswith(ModelCheckpoint.FILE_EXTENSION) and place.is_file() and not place.is_symlink()
        return str(place) if there else ""

    scores = {known(path): score for path, score in saved["best_k_models"].items()}
    scores.pop("", None)
    if not all(map(_is_number, scores.values())):
        raise ValueError("the checkpoint is damaged: best_k_models of ModelCheckpoint must hold a number for each")
    state = {**saved, "dirpath": callback.dirpath, "best_k_models": scores}
    for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[key] = known(saved[key])
    if scores and state["kth_best_model_path"] not in scores:  # the one that makes room is always one of them
        worst = max if callback.mode == "min" else min
        state["kth_best_model_path"] = worst(scores, key=lambda path: float(scores[path]))
        state["kth_value"] = scores[state["kth_best_model_path"]]
    return state
