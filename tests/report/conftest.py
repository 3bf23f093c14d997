"""Runs made up, as objects and as folders."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from torch.utils.tensorboard import SummaryWriter

from hiso_pl.report.run_data import RunData

HISO = {
    "class_path": "hiso_pl.zeroth_order.Method",
    "init_args": {
        **{"lr": 0.1, "mu": 0.001, "num_directions": 5, "local_steps": 1, "difference": "forward"},
        "preconditioner": {"class_path": "hiso_pl.zeroth_order.Diagonal", "init_args": {"nu": 0.05}},
    },
}


def made_up(
    values: Sequence[float],
    losses: Sequence[float] | None = None,
    *,
    lr: float | None = 0.1,
    seed: int | None = 1,
    method: str = "run",
    setting: str = "",
    complete: bool = True,
    test: float | None = None,
    metric: str = "val/accuracy",
    every: int = 25,
    options: Mapping[str, str] | None = None,
    curve: bool = True,
    **summary: Any,
) -> RunData:
    """A run as it is read, with a validation each ``every`` rounds."""
    losses = losses or [1.0] * len(values)
    rounds = [every * i for i in range(len(values))]
    columns = {
        "round": rounds,
        "forwards": [24.0 * r for r in rounds],
        "seconds": [0.2 * r for r in rounds],
        "paper_kb": [r * 40 / 1024 for r in rounds],
        "protocol_kb": [r * 30 / 1024 for r in rounds],
        metric: list(values),
        "val/loss": list(losses),
    }
    better = min if metric.endswith("loss") else max
    metrics: dict[str, dict[str, float | None]] = {
        metric: {"first": values[0], "best": better(values), "last": values[-1]},
        "val/loss": {"first": losses[0], "best": min(losses), "last": losses[-1]},
    }
    if test is not None:
        metrics[f"test/{metric.partition('/')[2]}"] = {"last": test}
    told = {"rounds": rounds[-1], "interrupted": False, "metrics": metrics, "clients": 8, "cohort": 4, **summary}
    folder = Path(method, setting, f"lr-{lr}", f"seed-{seed}")
    empty = pd.DataFrame({name: [] for name in ("round", "forwards", "seconds", "paper_kb", "protocol_kb")})
    frame = pd.DataFrame(columns) if curve else empty
    return RunData(folder, method, setting, lr, seed, complete, options or {}, told if complete else {}, frame)


def run_folder(
    folder: Path,
    values: Sequence[float] = (0.1, 0.5, 0.8),
    *,
    every: int = 25,
    lr: float = 0.1,
    seed: int = 1,
    method: Mapping[str, Any] | None = None,
    asked: Mapping[str, Any] | None = None,
    events: bool = True,
    forwards: bool = True,
    config: Mapping[str, Any] | None = None,
    **summary: Any,
) -> Path:
    """Leaves what a complete run leaves: configuration, curves and summary."""
    folder.mkdir(parents=True)
    described = json.loads(json.dumps(method or HISO))
    described["init_args"]["lr"] = lr
    rounds = every * (len(values) - 1)
    tree = {
        "seed_everything": seed,
        "trainer": {"max_steps": rounds, "val_check_interval": every, "default_root_dir": str(folder)},
        "model": {"method": described},
        "data": {"class_path": "hiso_pl.data.DigitsData", "init_args": {"clients": 8, "cohort": 4}},
        "board": {"every_n_rounds": 5},
        "test_at_end": False,
        **(config or {}),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    if asked is not None:
        (folder / "asked.json").write_text(json.dumps({"setting": dict(asked), "configuration": {}}))
    losses = [2.0 - value for value in values]
    if events:
        write_events(folder, every, values, losses, forwards)
    metrics = {
        "val/accuracy": {"first": values[0], "best": max(values), "last": values[-1]},
        "val/loss": {"first": losses[0], "best": min(losses), "last": losses[-1]},
    }
    told = {"rounds": rounds, "clients": 8, "cohort": 4, "metrics": metrics, "interrupted": False, **summary}
    (folder / "summary.json").write_text(json.dumps(told))
    return folder


def write_events(
    folder: Path,
    every: int,
    values: Sequence[float],
    losses: Sequence[float],
    forwards: bool = True,
    start: int = 0,
    **resumed: int,
) -> None:
    """Writes curves as a run does, from a round on; costs each 5 rounds."""
    with SummaryWriter(str(folder), **resumed) as writer:
        for i, (value, loss) in enumerate(zip(values, losses, strict=True)):
            if math.isfinite(value):
                writer.add_scalar("val/accuracy", value, start + every * i)
            writer.add_scalar("val/loss", loss, start + every * i)
            for step in range(start + every * (i - 1) + 5, start + every * i + 1, 5) if i else ():
                costs = {"comm/paper_kb": step * 40 / 1024, "comm/protocol_kb": step * 30 / 1024, "time/round_s": 0.5}
                costs |= {"cost/forwards": 24.0 * step} if forwards else {}
                for name, cost in costs.items():
                    writer.add_scalar(name, cost, step)


@pytest.fixture(scope="session")
def run_of() -> Callable[..., RunData]:
    """Makes up a run."""
    return made_up


@pytest.fixture(scope="session")
def folder_of() -> Callable[..., Path]:
    """Leaves a run's folder."""
    return run_folder


@pytest.fixture(scope="session")
def events_of() -> Callable[..., None]:
    """Writes a run's curves."""
    return write_events
