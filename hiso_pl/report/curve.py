"""A run's validations and what the rounds before each had cost, from what its loggers have left."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiso_pl.bounds import CURVE_POINTS, EVENTS_BYTES
from hiso_pl.regular_file import read_at_most
from hiso_pl.report.events import CURVES, FILES, Points, read_events
from hiso_pl.report.run_data import COSTS
from hiso_pl.run.folder import CONFIG, SUMMARY
from hiso_pl.run.forwards import FORWARDS, per_round

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

CSV = "metrics.csv"
CURVE_OF = {"forwards": FORWARDS, "paper_kb": "comm/paper_kb", "protocol_kb": "comm/protocol_kb"}
CURVE_OF |= {"simulated_s": "time/simulated_s"}
ROUND_S = "time/round_s"
EVERY = "board.every_n_rounds"
DEPTH = 4
"""Levels of folders in which a run's loggers may have written."""


def read_curve(
    folder: Path, options: Mapping[str, str], summary: Mapping[str, Any]
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Reads a run's validations; result as ``curve`` and ``notes`` of :class:`~hiso_pl.report.run_data.RunData`.

    Costs are read where the run has logged them, and in between they are taken to grow evenly; beyond the last logged
    round they are not known. Of times that is the round's, so what went on between two parts of a resumed run, starts
    and validations are not in them. Where forwards are not logged they are those of the method, if it has the same in
    each round.

    Args:
        folder: The run's folder.
        options: Its configuration, as text under dotted keys.
        summary: Its summary.
    """
    import numpy as np
    import pandas as pd

    points, notes = _points(folder)
    metrics = sorted(name for name in points if name.startswith("val/"))
    rounds = np.array(sorted({step for name in metrics for step in points[name]}), dtype=np.int64)
    columns: dict[str, Any] = {"round": rounds}
    for column in COSTS[1:]:
        steps, values = _arrays(points.get(CURVE_OF.get(column, ROUND_S), {}))
        if column == "seconds":
            steps, values, gap = _cumulated(steps, values, options)
            if gap and len(rounds):
                notes.append(f"{ROUND_S} is missing from round {gap} on, so the seconds are not known beyond")
        if column == "simulated_s" and not len(steps):
            continue  # a run whose clients take no time
        known = np.interp(rounds, [0, *steps], [0.0, *values], right=np.nan)
        if column == "forwards" and not len(steps) and (each := per_round(options, summary, folder)) is not None:
            known = rounds * float(each)
        columns[column] = known
    for name in metrics:
        columns[name] = [points[name].get(step, np.nan) for step in rounds.tolist()]
    return pd.DataFrame(columns), tuple(notes)


def _cumulated(
    steps: NDArray[np.int64], values: NDArray[np.float64], options: Mapping[str, str]
) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """The seconds up to each logged round, which stands for those before it that are not logged.

    Returns:
        Rounds and seconds up to the first that is missing, and that round, or 0.
    """
    import numpy as np

    if not len(steps):
        return steps, values, 0
    apart = np.diff(steps, prepend=0)
    every = options.get(EVERY, "")
    usual = max(int(every) if every.isdigit() else 1, int(np.median(apart)))
    missing = np.flatnonzero(apart > usual)
    end = missing[0] if len(missing) else len(steps)
    gap = 0 if not len(missing) else int(steps[end - 1]) + 1 if end else 1
    return steps[:end], np.cumsum(values * apart)[:end], gap


def _arrays(curve: Mapping[int, float]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    import numpy as np

    steps = sorted(curve)
    return np.array(steps, dtype=np.int64), np.array([curve[step] for step in steps], dtype=np.float64)


def _points(folder: Path) -> tuple[Points, list[str]]:
    """The curves of the first kind of logger that has validations."""
    events, tables = _files(folder)
    points, notes = read_events(events)
    import numpy as np

    for curve in points.values():  # fp32 in the files: 0.7 is to be 0.7
        shortest = np.array(list(curve.values()), dtype=np.float32).astype(str).astype(np.float64)
        curve.update(zip(curve, shortest.tolist(), strict=True))
    if not any(name.startswith("val/") for name in points) and tables:
        points = {}
        for path in tables:
            try:
                notes += _read_table(path, points)
            except (OSError, ValueError, csv.Error) as error:
                notes.append(f"{path.name} is damaged: {error}")
    if not any(name.startswith("val/") for name in points):
        what = "is no validation" if events or tables else "are no files of curves, by TensorBoard's or CSV's logger,"
        notes.append(f"there {what} in its folder, so no more is known than its summary says")
    return points, notes


def _read_table(path: Path, points: Points) -> list[str]:
    """Adds the curves of a CSVLogger's file, of which a last line without an end is left out."""
    data, notes = read_at_most(path, EVENTS_BYTES), list[str]()
    whole, cut = data[: data.rfind(b"\n") + 1], data[data.rfind(b"\n") + 1 :]
    if cut:
        notes.append(f"{path.name} is cut short: its last line is left out")
    rows = csv.DictReader(whole.decode("utf-8").splitlines())
    names = {name: found[1] for name in rows.fieldnames or () if (found := CURVES.match(name))}
    count = 0
    for row in rows:
        step = row.get("step") or ""
        if not step.isdigit():
            raise ValueError(f"line {rows.line_num} has no step")
        for name, curve in names.items():
            if row.get(name):
                points.setdefault(curve, {})[int(step)] = float(row[name])
                count += 1
        if count > CURVE_POINTS:
            raise ValueError(f"it holds over {CURVE_POINTS} points")
    return notes


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files of a run's loggers in its folder, those of TensorBoard and those of rows; not of runs within it."""
    events, tables = list[Path](), list[Path]()
    for root, folders, _ in os.walk(folder):
        here = Path(root)
        deep = len(here.relative_to(folder).parts) >= DEPTH
        inner = [] if deep else [name for name in folders if name != "checkpoints" and not _is_run(here / name)]
        folders[:] = sorted(inner, key=lambda name: [int(word[:18]) for word in re.findall(r"\d+", name)] or [0])
        events += here.glob(FILES)
        tables += here.glob(CSV)
    return events, tables


def _is_run(folder: Path) -> bool:
    return (folder / CONFIG).exists() or (folder / SUMMARY).exists()
