"""How far a run of a study has come, by what its folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hiso_pl.report.curve import read_curve
from hiso_pl.run.folder import SUMMARY, went_through
from hiso_pl.study.folders import noted, read_json
from hiso_pl.study.grid import Ask


def complete_summary(folder: Path, asked: Mapping[str, str]) -> Mapping[str, Any]:
    """The summary of a run that went through all rounds, and its test if one is asked for; of another nothing."""
    try:
        summary: Mapping[str, Any] = read_json(folder / SUMMARY)
        tested = asked["test_at_end"] != "True" or any(name.startswith("test/") for name in summary["metrics"])
        whole = summary["interrupted"] is False and went_through(summary, asked["trainer.max_steps"]) and tested
    except (KeyError, TypeError):  # there is none, or it is of something else
        return {}
    return summary if whole else {}


def as_far_as_wanted(ask: Ask) -> bool:
    """Whether a run is complete, or has ended for good, or has the validation that it was to come to.

    It has only if its folder says what was asked: nobody would know whose results these are.
    """
    if noted(ask.folder) is None:
        return False
    if complete_summary(ask.folder, ask.configuration) or has_stopped(ask.folder):
        return True
    if ask.until is None:
        return False
    curve, _ = read_curve(ask.folder, ask.configuration, {})
    return bool((curve["round"] >= ask.until).any())


def has_stopped(folder: Path) -> bool:
    """Whether a run has ended before its last round for a reason that it would meet again."""
    summary = read_json(folder / SUMMARY)
    return isinstance(summary, dict) and bool(summary.get("stopped"))
