"""What a run has come to by an aim: one row of a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from hiso_pl.report.run_data import COSTS, LOSS, Aim, RunData

if TYPE_CHECKING:
    import pandas as pd

CURVE = {"rounds": "round"}
"""Costs that a curve has under another name."""


def at(cost: str, target: float) -> str:
    """The column of what a target has cost."""
    return f"{cost}@{target:g}"


def outcome(run: RunData, aim: Aim) -> dict[str, Any]:
    """What a run has come to; NaN is what is not known, or what it has not reached.

    Of a complete run ``first``, ``best``, ``last`` and ``test`` are its summary's, of another what its curve has so
    far. It has ``diverged`` if it ends with a loss above that before any round, or with none that is a number; then no
    target is reached. A target is reached at the first validation that meets it; ``short`` is whether one was, and the
    end is short of it, or diverged. A run that ``stopped`` for a reason which it would meet again, as its summary
    says, has diverged.
    """
    curve, metric = run.curve, aim.metric
    values = curve[metric].tolist() if metric in curve else list[float]()
    known = [(i, float(value)) for i, value in enumerate(values) if math.isfinite(value)]
    losses = [float(value) for value in curve[LOSS]] if LOSS in curve else []
    if run.complete:
        first, best, last = (run.value(metric, which) for which in ("first", "best", "last"))
        start, loss, judged = run.value(LOSS, "first"), run.value(LOSS, "last"), LOSS in run.summary["metrics"]
    else:
        first, last = (known[0][1], known[-1][1]) if known else (math.nan, math.nan)
        best = (min if aim.lower else max)((value for _, value in known), default=math.nan)
        start, loss, judged = (losses[0], losses[-1], True) if losses else (math.nan, math.nan, False)
    stopped = bool(run.summary.get("stopped"))
    diverged = stopped or (judged and not loss <= start)
    row: dict[str, Any] = {
        "method": run.method,
        "setting": run.setting,
        "lr": math.nan if run.lr is None else run.lr,
        "seed": run.seed,
        "complete": run.complete,
        "stopped": stopped,
        "diverged": diverged,
        "first": first,
        "best": best,
        "last": last,
        "loss": loss if math.isfinite(loss) else math.nan,
        "test": run.value(f"test/{aim.name}", "last"),
    }
    if stopped:
        row |= dict.fromkeys(("best", "last", "loss"), math.nan)
    row |= {cost: _spent(curve, cost, -1) for cost in COSTS}
    row["rounds"] = run.rounds
    for target in aim.targets:
        seen = [i for i, value in known if aim.met(value, target)][:1]
        for cost in COSTS:
            there = seen and not diverged
            row[at(cost, target)] = _spent(curve, cost, seen[0]) if there else math.nan
        row[at("short", target)] = bool(seen) and (diverged or not aim.met(last, target))
    return row


def _spent(curve: pd.DataFrame, cost: str, place: int) -> float:
    """What had been spent at one of a run's validations, as far as it is known."""
    column = CURVE.get(cost, cost)
    return math.nan if curve.empty or column not in curve else float(curve[column].iloc[place])
