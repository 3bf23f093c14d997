"""What a run has come to, as it is read from its folder, and what runs are judged by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiso_pl.run.folder import BETTER_LOW

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("val/accuracy", "val/f1", "val/drop_f1", "val/rougeL", "val/loss")
"""What is compared where nothing else is asked for: the first that all have."""
LOSS = "val/loss"
BY = ("best", "last", "rounds", "loss")
"""What of a metric may choose a learning rate."""
COSTS = ("rounds", "forwards", "seconds", "paper_kb", "protocol_kb", "simulated_s")
"""What a run may have spent until it reaches a target."""


@dataclass(frozen=True)
class Aim:
    """What runs are judged by.

    Args:
        metric: A metric of validation.
        by: What chooses a learning rate: the ``best`` or ``last`` value of the metric, ``rounds`` to the first target,
            or the last ``loss`` of validation.
        targets: Values of the metric to reach.

    Raises:
        ValueError: If one of them cannot be.
    """

    metric: str
    by: str = "best"
    targets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Checks them."""
        if not self.metric.startswith("val/"):
            raise ValueError(f"metric={self.metric} must be one of validation, such as {METRICS[0]}")
        if self.by not in BY:
            raise ValueError(f"by={self.by} must be one of {', '.join(BY)}")
        if not all(math.isfinite(target) for target in self.targets) or len({*self.targets}) < len(self.targets):
            raise ValueError(f"targets={list(self.targets)} must be finite numbers, each of them once")
        if self.by == "rounds" and not self.targets:
            raise ValueError("by=rounds needs targets: the first is what the rounds are counted to")

    @property
    def lower(self) -> bool:
        """Whether less of the metric is better, as the summary of a run has it."""
        return self.metric.endswith(BETTER_LOW)

    def met(self, value: float, target: float) -> bool:
        """Whether a value is at a target or beyond; NaN is not."""
        return value <= target if self.lower else value >= target

    @property
    def name(self) -> str:
        """The metric without its split."""
        return self.metric.partition("/")[2]


@dataclass(frozen=True, eq=False)
class RunData:
    """One run, of a study or of one's own, complete or not.

    Attributes:
        folder: Its folder.
        method: What it is called among others: by its study, or by the options in which it differs from them.
        setting: What else is varied, in words; empty where nothing is.
        lr: Its learning rate, if that is known.
        seed: Its seed, if that is known.
        complete: Whether it went through all its rounds, and its test if one is asked for.
        options: Its config.yaml as text under dotted keys, as :func:`~hiso_pl.run.configuration.as_text` has it.
        summary: Its summary.json; empty if there is none, or it is damaged.
        curve: A row for each validation, ascending: ``round``, what the rounds before had cost (``forwards``,
            ``seconds``, ``paper_kb``, ``protocol_kb``, and ``simulated_s`` where clients take time), and each ``val/``
            metric; NaN where it is not known.
        notes: What a reader must be told of it, in sentences without the folder's name.
        halted: Whether it is no further as its study has asked for no more.
    """

    folder: Path
    method: str
    setting: str
    lr: float | None
    seed: int | None
    complete: bool
    options: Mapping[str, str]
    summary: Mapping[str, Any]
    curve: pd.DataFrame
    notes: tuple[str, ...] = ()
    halted: bool = False

    def value(self, metric: str, which: str) -> float:
        """A number of the summary: the ``first``, ``best`` or ``last`` of a metric; NaN where there is none."""
        found = self.summary.get("metrics", {}).get(metric, {}).get(which)
        return float(found) if found is not None and math.isfinite(found) else math.nan

    @property
    def metrics(self) -> frozenset[str]:
        """The metrics of validation that it has."""
        known = (*self.summary.get("metrics", {}), *self.curve.columns)
        return frozenset(name for name in known if name.startswith("val/"))

    @property
    def rounds(self) -> float:
        """Rounds that it went through, as far as is known."""
        return float(self.summary.get("rounds", self.curve["round"].max() if len(self.curve) else math.nan))
