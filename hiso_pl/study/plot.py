"""The picture of a study: the curves at its chosen rates, and the rounds to the target by rate."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hiso_pl.study.choice import Grid, best, values
from hiso_pl.study.runs import Aim

COLOURS = ("#0072B2", "#D55E00", "#444444", "#009E73", "#E69F00", "#56B4E9", "#CC79A7")
LINES = ("-", "--", "-.", ":")


def plot(path: Path, grids: Sequence[Grid], aim: Aim) -> None:
    """Draws the metric by rounds and KB sent at each chosen rate, and the rounds to the target at all rates.

    Raises:
        ValueError: If there is nothing to draw.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    chosen = [(grid, row) for grid in grids if (row := best(grid, aim)) is not None]
    curves = [np.array([outcome.curve for outcome in row if outcome.complete]) for _, row in chosen]
    if not curves:
        raise ValueError(f"plot={path}: there is no learning rate to draw")
    end = max(curve[0, -1, 0] for curve in curves)
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9}):
        figure = Figure(figsize=(9.6, 3.9), layout="constrained", dpi=160)
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
        for i, ((grid, row), curve) in enumerate(zip(chosen, curves, strict=True)):
            colour, line = COLOURS[i % len(COLOURS)], LINES[i % len(LINES)]
            label = ", ".join(filter(None, (row[0].setting.label, f"lr {row[0].setting.lr:g}")))
            rounds, metric = curve[0, :, 0], curve[:, :, 1]
            left.plot(rounds, metric.mean(0), line, color=colour, linewidth=1.6, label=label)
            left.fill_between(rounds, metric.min(0), metric.max(0), color=colour, alpha=0.13, linewidth=0)
            beside = 1.025 ** (i - (len(chosen) - 1) / 2)  # equal rates of two methods would hide each other
            found = {beside * row[0].setting.lr: values(row, "rounds") for row in grid}
            reached = {x: r for (x, r), row in zip(found.items(), grid, strict=True) if len(r) == len(row)}
            if reached:
                mean, low, high = (np.array([f(r) for r in reached.values()]) for f in (np.mean, min, max))
                look = {"color": colour, "capsize": 2, "marker": "o", "markersize": 4, "linewidth": 1.2}
                right.errorbar(list(reached), mean, [mean - low, high - mean], linestyle=line, **look)
            missed = [x for x in found if x not in reached]
            right.plot(missed, [end * 1.06] * len(missed), "x", color=colour, markersize=6, clip_on=False)
        left.set(xlabel="rounds", ylabel=aim.metric, xlim=(0, end), ylim=None if aim.lower else (0, 1))
        left.legend(frameon=False, loc="upper right" if aim.lower else "lower right")
        if len({curve[0][:, [0, 2]].tobytes() for curve in curves}) == 1:
            # a knot beyond the end: ticks are placed there before the axis is cut
            rounds, kb = (np.append(values, 2 * values[-1]) for values in (curves[0][0, :, 0], curves[0][0, :, 2]))
            to_kb = functools.partial(np.interp, xp=rounds, fp=kb)
            to_rounds = functools.partial(np.interp, xp=kb, fp=rounds)
            left.secondary_xaxis("top", functions=(to_kb, to_rounds)).set_xlabel("KB sent by and to a client")
        left.axhline(aim.target, color="black", linewidth=0.8, linestyle=(0, (1, 2)))
        right.set_xscale("log")
        right.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        right.xaxis.set_minor_formatter(NullFormatter())
        right.set(xlabel="learning rate", ylabel=f"rounds to {aim.target:g}", ylim=(0, end * 1.12))
        right.set_title(f"\u00d7  not reached by all seeds in {end:g} rounds")
        for axes in (left, right):
            axes.grid(alpha=0.25, linewidth=0.6)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
