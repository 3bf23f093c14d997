"""The pictures of a comparison: its curves, what the learning rate does, and what it takes to reach the targets."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hiso_pl.report.curves import Band, band
from hiso_pl.report.look import canvas, look, numbers, rate_ticks, settled, wrapped
from hiso_pl.report.marks import draw_band, draw_rates, draw_reached
from hiso_pl.report.outcome import at
from hiso_pl.report.panels import WRAP, Panels, limit, targets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hiso_pl.report.comparison import Comparison, Group

AXES = {
    "rounds": "rounds",
    "paper_kb": "KB to and from a client (paper)",
    "protocol_kb": "KB to and from a client (protocol)",
    "forwards": "forward passes of the cohort",
    "seconds": "seconds of rounds",
    "simulated_s": "simulated seconds",
}
"""What a metric is drawn by, and how an axis names it."""
SHORT = {"rounds": "rounds", "paper_kb": "KB (paper)", "forwards": "forward passes", "seconds": "seconds"}
SHORT |= {"simulated_s": "simulated seconds"}
PICTURES = (
    *("by-rounds", "targets", "rates", "by-paper-kb", "by-forwards", "by-seconds", "by-protocol-kb"),
    "by-simulated-s",
)
"""The pictures that there may be, by the name of their files, in the order in which they are told."""
APART = 12
"""An axis is logarithmic if the ends of two methods lie so many times apart."""
UNLIKE = 1.5
"""Settings have axes of their own if one's ends lie so many times beyond another's."""


class NothingToDrawError(ValueError):
    """There are no data for a picture."""


def draw(comparison: Comparison, by: str) -> Figure:
    """Draws the metric of each method at its chosen learning rate by rounds, KB, forward passes or seconds.

    A line is the mean over seeds, a band reaches from the lowest to the highest of them; both end where one seed has no
    data any more, and the others go on as thin lines. A run that diverged is drawn like the others, and its end is
    marked. Where no rate could be chosen all runs are drawn by themselves.

    Raises:
        NothingToDrawError: If no run has both in its log.
    """
    aim = comparison.aim
    found = [(group, bands) for group in comparison.groups if (bands := _bands(comparison, group, by))]
    if not found:
        raise NothingToDrawError(f"by={by}: no run has logged {aim.metric} by {AXES[by]}")
    panels = Panels.of([group for group, _ in found])
    key = {panels.look(group): _label(comparison, group, bands, panels) for group, bands in reversed(found)}
    every = [one for _, bands in found for one in bands]
    ends = [max(one.last for one in bands) for _, bands in found]
    log = by != "rounds" and max(ends) > APART * min(ends) > 0
    longest = [0.0] * len(panels.titles)
    for (group, _), end in zip(found, ends, strict=True):
        longest[panels.panel(group)] = max(longest[panels.panel(group)], end)
    apart = not log and max(longest) > UNLIKE * min(longest)
    with look():
        figure, axes = panels.figure(key, _says(every), AXES[by] + ", logarithmic" * log, aim.metric, apart)
        for each, end in zip(axes, longest if apart else [max(ends)], strict=False):
            if log:
                each.set_xscale("log")
            else:
                each.set_xlim(0, end * 1.01 or 1)
        limit(axes, aim, every)
        for group, bands in found:
            for one in bands:
                draw_band(axes[panels.panel(group)], one, panels.look(group), log)
        for each in axes if apart else axes[:1]:
            numbers(each.xaxis, log)
        targets(axes, aim)
        return settled(figure)


def rates(comparison: Comparison) -> Figure:
    """Draws what the learning rate does: rounds to the first target where they choose, else what chooses, by rate.

    Each seed is a dot, the line joins the means of rates of which all seeds count; a cross above them is a rate
    of which a seed diverged, or did not reach the target. The chosen rate has a ring.

    Raises:
        NothingToDrawError: If no method ran at two rates or more.
    """
    aim, grid = comparison.aim, comparison.grid
    column, what = aim.by, f"{aim.by} {aim.metric}"
    if aim.by == "rounds":
        column, what = at("rounds", aim.targets[0]), f"rounds to {aim.metric} of {aim.targets[0]:g}"
    elif aim.by == "loss":
        what = "last val/loss"
    groups = [group for group in comparison.groups if sum(rate is not None for rate in group.rates) > 1]
    if not groups:
        raise NothingToDrawError("rates: no method ran at several learning rates")
    panels = Panels.of(groups)
    key = {panels.look(group): wrapped(panels.name(group), WRAP) for group in reversed(groups)}
    why = "not reached by a seed" if aim.by == "rounds" else "a seed diverged, or has no value"
    with look():
        says = f"line: mean over seeds, which are dots; ring: chosen rate; \u00d7: {why}"
        figure, axes = panels.figure(key, says, "learning rate, logarithmic", what)
        axes[0].set_xscale("log")
        for group in groups:
            i = panels.look(group)
            beside = 1.015 ** (i - (len(panels.names) - 1) / 2)  # equal rates would hide each other
            draw_rates(axes[panels.panel(group)], grid[grid["label"] == group.label], group, column, i, beside)
        bottom, top = axes[0].get_ylim()
        if aim.by == "rounds":
            bottom, top = 0.0, top if grid[column].notna().any() else max(grid["rounds"].max(), 1.0)
        axes[0].set_ylim(bottom, bottom + (top - bottom) * 1.09)  # room for crosses above all values
        rate_ticks(axes[0], [rate for group in groups for rate in group.rates if rate is not None])
        return settled(figure)


def reached(comparison: Comparison) -> Figure:
    """Draws rounds, KB, forward passes and seconds to each target: seeds as dots, their mean and its interval.

    Raises:
        NothingToDrawError: If there is no target, or no run has reached one.
    """
    import numpy as np

    aim, results = comparison.aim, comparison.results
    panels, many = Panels.of(comparison.groups), len(aim.targets)
    groups = sorted(comparison.groups, key=panels.panel)  # the methods of one setting side by side
    rows = [(group, target) for group in groups for target in aim.targets]
    names = [name for name in SHORT if any(results[at(name, target)].notna().any() for target in aim.targets)]
    if not names:
        raise NothingToDrawError("targets: none was given, or no run has reached one")
    labels = [wrapped(group.label, 34) if row % many == 0 else "" for row, (group, _) in enumerate(rows)]
    with look():
        figure = canvas(1.1 + 0.24 * len(rows) + 0.13 * sum(label.count("\n") for label in labels))
        axes = list(figure.subplots(1, len(names), sharey=True, squeeze=False).flat)
        for panel, name in zip(axes, names, strict=True):
            missed = False
            for row, (group, target) in enumerate(rows):
                column = at(name, target)
                values = results.loc[results["label"] == group.label, column].to_numpy(dtype=float).tolist()
                missed |= any(map(math.isnan, values))
                interval = _interval(comparison, group, column)
                draw_reached(panel, values, interval, row, panels.look(group), target == aim.targets[0])
            for row in range(many, len(rows), many):
                other = panels.panel(rows[row][0]) != panels.panel(rows[row - 1][0])
                panel.axhline(row - 0.5, color="#999999", linewidth=1.2 if other else 0.4)
            spent = results[[at(name, target) for target in aim.targets]].to_numpy(dtype=float)
            low, high = np.nanmin(spent), np.nanmax(spent)
            room = 1.35 if missed else 1.08  # for how many reached it
            log = bool(low > 0 and high > APART * low)
            panel.set_xlabel(SHORT[name] + ", logarithmic" * log)
            if log:
                panel.set_xscale("log")
                panel.set_xlim(low / 1.5, high * (high / low) ** (room - 1))
            else:
                panel.set_xlim(0, high * room or 1)
                panel.locator_params(axis="x", nbins=3)
            panel.tick_params(axis="y", length=0)
            panel.grid(axis="y", visible=False)
            numbers(panel.xaxis, log, len(names))
        ticks = [f"{label}   {target:g}" for label, (_, target) in zip(labels, rows, strict=True)]
        axes[0].set(yticks=range(len(rows)), yticklabels=ticks, ylim=(len(rows) - 0.5, -0.5))
        what = f"to {aim.metric} of {', '.join(f'{t:g}' for t in aim.targets)}"
        figure.suptitle(
            wrapped(f"{what} (dots: seeds that reach it; mark and line: their mean and its interval)", 120), fontsize=9
        )
        return settled(figure)


def pictures(comparison: Comparison) -> dict[str, Figure]:
    """All pictures that there are data for, by the name of their files."""
    found = {}
    for name in PICTURES:
        with contextlib.suppress(NothingToDrawError):
            if name in ("targets", "rates"):
                found[name] = reached(comparison) if name == "targets" else rates(comparison)
            else:
                found[name] = draw(comparison, name.removeprefix("by-").replace("-", "_"))
    return found


def _bands(comparison: Comparison, group: Group, by: str) -> list[Band]:
    """The seeds at the chosen rate as one; without a rate that could be chosen, every run for itself."""
    grid = comparison.grid[comparison.grid["label"] == group.label]
    lost = {(_plain(lr), _plain(seed)) for lr, seed, lost in grid[["lr", "seed", "diverged"]].itertuples(False) if lost}
    rows = [group.told] if group.told else [(run,) for row in group.rates.values() for run in row]
    found = (
        band(row, [(_plain(r.lr), _plain(r.seed)) in lost for r in row], comparison.aim.metric, by) for row in rows
    )
    return [one for one in found if one is not None]


def _plain(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _label(comparison: Comparison, group: Group, bands: Sequence[Band], panels: Panels) -> str:
    """A line's name in the key; where there is but one of it, with its rate, and how many seeds are not in its mean."""
    words = [panels.name(group)]
    if not group.told:
        words.append("no rate counts: all runs")
    elif len(panels.titles) == 1:
        words += [f"lr {group.chosen:g}"] if group.chosen is not None else []
        here, lost, of = sum(b.seeds for b in bands), sum(b.diverged for b in bands), len(group.told)
        words += [f"{lost} of {of} diverged"] if lost else []
        words += [f"{of - here - lost} of {of} without data"] if here + lost < of else []
    return wrapped(", ".join(filter(None, words)), WRAP)


def _says(bands: Sequence[Band]) -> str:
    """What lines and marks mean, of those that there are."""
    words = ["line: mean over seeds, band: lowest to highest seed"] if any(one.seeds > 1 for one in bands) else []
    words += [] if words else ["line: one seed"] if any(one.seeds for one in bands) else []
    kept = any(not line.diverged for one in bands for line in one.alone)
    words += ["thin: single seeds, where not all have data"] if kept else []
    return "; ".join(words + (["thin to \u00d7: diverged"] if any(one.diverged for one in bands) else []))


def _interval(comparison: Comparison, group: Group, column: str) -> tuple[float, float]:
    """The interval of a mean over seeds, from the table that has it."""
    row = comparison.summary[comparison.summary["label"] == group.label]
    return (
        (float(row[f"{column} low"].iloc[0]), float(row[f"{column} high"].iloc[0]))
        if len(row)
        else (math.nan, math.nan)
    )
