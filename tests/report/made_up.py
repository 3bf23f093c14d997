"""Runs that nobody has made, of any shape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hiso_pl.report.run_data import RunData

VERSIONS = {"hiso_pl": "0.1.0", "python": "3.11.4", "torch": "2.12.0"}


def run(
    method: str = "HiSo",
    setting: str = "",
    lr: float | None = 0.01,
    seed: int = 1,
    *,
    rounds: Sequence[int] = range(0, 601, 50),
    speed: float = 1.0,
    values: Sequence[float] | None = None,
    lost_at: int | None = None,
    kb: float = 0.08,
    metric: str = "val/accuracy",
    options: dict[str, str] | None = None,
) -> RunData:
    """A run whose accuracy rises to 0.9 and whose loss falls, or that diverges."""
    at = np.array(rounds, dtype=float)
    noise = np.random.default_rng([seed, len(method), len(setting)]).normal(0, 0.01, len(at)) * (at > 0)
    curve = {"val/accuracy": 0.1 + 0.8 * (1 - np.exp(-at * speed / 200)) + noise}
    curve["val/loss"] = 0.3 + 2 * np.exp(-at * speed / 300) + noise
    if lost_at is not None:
        curve["val/accuracy"][at >= lost_at], curve["val/loss"][at >= lost_at] = 0.1, 1e30
    if values is not None:
        curve[metric] = np.array(values, dtype=float)
    frame = pd.DataFrame({"round": at, "forwards": at * 24, "seconds": at * (0.02 + 0.001 * seed)})
    frame = frame.assign(paper_kb=at * kb, protocol_kb=at * kb * 1.4, **curve)
    ends: dict[str, Any] = {
        name: {"first": found[0], "last": found[-1], "best": min(found) if name == "val/loss" else max(found)}
        for name, found in curve.items()
    }
    summary: dict[str, Any] = {
        "rounds": int(at[-1]),
        "clients": 8,
        "cohort": 4,
        "parameters": 1898,
        "seconds": 12.5,
        "ranks": 1,
    }
    summary |= {"metrics": ends | {"test/accuracy": {"last": ends["val/accuracy"]["last"] - 0.01}}}
    summary |= {"interrupted": False, "versions": VERSIONS, "forwards_per_second": 900.0}
    folder = Path("runs") / method[:20] / f"lr-{lr}" / f"seed-{seed}"
    options = {"trainer.max_steps": str(int(at[-1])), "seed_everything": str(seed)} | (options or {})
    return RunData(folder, method, setting, lr, seed, True, options, summary, frame)


def runs(methods: Sequence[str] = ("HiSo", "DeComFL"), settings: Sequence[str] = ("",), **other: Any) -> list[RunData]:
    """Two rates and two seeds of each method under each setting."""
    return [
        run(method, setting, lr, seed, speed=0.6 + 0.2 * i + 20 * (lr - 0.01), **other)
        for i, method in enumerate(methods)
        for setting in settings
        for lr in (0.01, 0.02)
        for seed in (1, 2)
    ]
