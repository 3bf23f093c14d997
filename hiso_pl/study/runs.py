"""What the runs of a study have come to, read from their folders."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hiso_pl.run.folder import BETTER_LOW, SUMMARY
from hiso_pl.study.grid import Setting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ASKED = "asked.json"
METRICS = ("val/accuracy", "val/f1", "val/drop_f1", "val/rougeL", "val/loss")
LOSS = "val/loss"
PAPER, PROTOCOL, ROUND_S = "comm/paper_kb", "comm/protocol_kb", "time/round_s"


@dataclass(frozen=True)
class Aim:
    """What a study is judged by: a metric of validation, what of it chooses a rate, and its value to reach if any."""

    metric: str
    by: str = "best"
    target: float | None = None

    @property
    def lower(self) -> bool:
        """Whether less of the metric is better, as the summary of a run has it."""
        return self.metric.endswith(BETTER_LOW)

    def met(self, value: float | None) -> bool:
        """Whether a value is at the target or beyond."""
        if value is None or self.target is None:
            return False
        return value <= self.target if self.lower else value >= self.target


class Point(NamedTuple):
    """A validation of a run.

    Attributes:
        rounds: Rounds before it.
        value: The metric.
        kb: What they cost a client by the paper's count.
        protocol_kb: By the protocol's.
        seconds: The time that they took.
    """

    rounds: int
    value: float
    kb: float
    protocol_kb: float
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What a run has come to; of one that is not complete only the setting is known."""

    setting: Setting
    complete: bool = False
    first: float | None = None  # the metric before any round
    best: float | None = None
    last: float | None = None
    loss: float | None = None  # the last one of validation
    test: float | None = None
    diverged: bool = False  # ends with a loss above that before any round, or with none that is a number
    rounds: int | None = None  # to the first validation at the target; none if it diverged
    kb_to: float | None = None  # what they cost a client by the paper's count
    protocol_kb_to: float | None = None  # by the protocol's
    seconds_to: float | None = None  # rounds alone, without start and validations
    fell_back: bool = False  # the target was seen, but the end is short of it, or diverged
    kb: float | None = None  # by the paper's count
    digest: str | None = None
    curve: tuple[Point, ...] = ()


def complete_summary(folder: Path, asked: Mapping[str, str]) -> Mapping[str, Any]:
    """The summary of a run that went through all rounds, and its test if one is asked for; of another nothing."""
    try:
        summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    tested = asked["test_at_end"] != "True" or any(name.startswith("test/") for name in summary["metrics"])
    whole = not summary["interrupted"] and str(summary["rounds"]) == asked["trainer.max_steps"] and tested
    return summary if whole else {}


def read_curve(folder: Path, metric: str) -> tuple[Point, ...]:
    """Reads a metric's validations from a run's event files, and what the rounds before each had cost.

    Costs are read where the run has logged them, and in between they are taken to grow evenly. Of times that is the
    round's, so what went on between two parts of a resumed run, starts and validations are not in them.

    Raises:
        ValueError: If they hold none.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # a resumed run takes back what lies beyond its round, which is computed again with the same values
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    events.Reload()
    if missing := [name for name in (metric, PAPER, PROTOCOL, ROUND_S) if name not in events.Tags()["scalars"]]:
        raise ValueError(f"{folder} holds no curve of {missing[0]}: a target or plot needs TensorBoard's logger")

    import numpy as np  # help does without

    def read(name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        found = {event.step: event.value for event in events.Scalars(name)}
        steps = np.array(sorted(found))
        return steps, np.array([found[step] for step in steps.tolist()])

    def at(name: str, rounds: NDArray[np.int64]) -> list[float]:
        steps, values = read(name)
        if name == ROUND_S:  # each logged round stands for those before it that are not
            values = np.cumsum(values * np.diff(steps, prepend=0))
        return np.interp(rounds, [0, *steps], [0.0, *values]).tolist()

    rounds, values = read(metric)
    columns = [at(name, rounds) for name in (PAPER, PROTOCOL, ROUND_S)]
    rounded = [round(value, 6) for value in values.tolist()]  # the files hold fp32
    return tuple(map(Point, rounds.tolist(), rounded, *columns))


def read_outcome(folder: Path, setting: Setting, summary: Mapping[str, Any], aim: Aim) -> Outcome:
    """What a complete run has come to; its curve is read only if there is a target."""

    def value(metric: str, which: str) -> float | None:
        found = summary["metrics"].get(metric, {}).get(which)
        return found if found is not None and math.isfinite(found) else None

    first, best, last = (value(aim.metric, which) for which in ("first", "best", "last"))
    test = value(f"test/{aim.metric.rpartition('/')[2]}", "last")
    start, loss = value(LOSS, "first"), value(LOSS, "last")
    diverged = LOSS in summary["metrics"] and (start is None or loss is None or loss > start)
    points = () if aim.target is None else read_curve(folder, aim.metric)
    seen = next((point for point in points if aim.met(point.value)), None)
    fell_back = seen is not None and (diverged or not aim.met(last))
    to = None if diverged else seen
    return Outcome(
        setting,
        complete=True,
        first=first,
        best=best,
        last=last,
        loss=loss,
        test=test,
        diverged=diverged,
        rounds=to and to.rounds,
        kb_to=to and to.kb,
        protocol_kb_to=to and to.protocol_kb,
        seconds_to=to and to.seconds,
        fell_back=fell_back,
        kb=summary["comm"]["paper_kb"],
        digest=summary.get("digest"),
        curve=points,
    )


def read_study(
    root: Path, metric: str | None, by: str, target: float | None, methods: Sequence[str] = ()
) -> tuple[list[Outcome], Aim]:
    """All runs below a folder by setting, methods in the order given, and what they are judged by.

    Raises:
        ValueError: If there is none, or they do not have the metric.
    """
    found = []
    for path in root.glob(f"**/{ASKED}"):
        noted = json.loads(path.read_text(encoding="utf-8"))
        if noted["setting"]:
            summary = complete_summary(path.parent, noted["configuration"])
            found.append((path.parent, Setting(**noted["setting"]), summary))
    if not found:
        raise ValueError(f"root={root} holds no run of a study")
    order = {method: i for i, method in enumerate(methods)}
    found.sort(key=lambda run: (order.get(run[1].method, len(order)), run[1].group, run[1].lr, run[1].seed))
    aim = Aim(choose_metric([summary for _, _, summary in found], metric), by, target)
    return [
        read_outcome(folder, setting, summary, aim) if summary else Outcome(setting)
        for folder, setting, summary in found
    ], aim


def choose_metric(summaries: Sequence[Mapping[str, Any]], asked: str | None) -> str:
    """The metric asked for, or the first of the usual ones that all complete runs have.

    Raises:
        ValueError: If they do not have it.
    """
    names = [set(summary["metrics"]) for summary in summaries if summary]
    common = set.intersection(*names) if names else set()
    metric = next((name for name in METRICS if name in common), METRICS[0]) if asked is None else asked
    if names and metric not in common:
        raise ValueError(f"metric={metric} must be one of {', '.join(sorted(common))}")
    return metric
