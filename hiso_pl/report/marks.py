"""What is drawn inside the axes of a picture: bands of curves, values by learning rate, what it took to a target."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from hiso_pl.report.look import COLOURS, style

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from pandas import DataFrame

    from hiso_pl.report.comparison import Group
    from hiso_pl.report.curves import Alone, Band


def draw_band(axes: Axes, band: Band, i: int, log: bool) -> None:
    """Draws seeds as one, in the i-th look; without what lies at 0 on a logarithmic axis."""
    import numpy as np

    seen = band.x > 0 if log else np.full(len(band.x), True)
    x, mean, low, high = (values[seen] for values in (band.x, band.mean, band.low, band.high))
    look, color = style(i), COLOURS[i % len(COLOURS)]
    axes.plot(x, mean, **look, markevery=(0.02 + 0.017 * (i % 7), 0.14) if len(x) > 2 else None)
    axes.fill_between(x, low, high, color=color, alpha=0.16, linewidth=0)
    bottom, top = axes.get_ylim()
    for line in band.alone:
        x, y = _until_out(line, bottom, top) if line.diverged else (line.x, line.y)
        axes.plot(x, y, color=color, linestyle=look["linestyle"], linewidth=0.8)
        if line.diverged:
            axes.plot(x[-1:], y[-1:], "x", color=color, markersize=7, markeredgewidth=1.6, clip_on=False, zorder=5)


def _until_out(line: Alone, bottom: float, top: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A line to where it leaves the axes for good."""
    import numpy as np

    inside = np.flatnonzero((line.y >= bottom) & (line.y <= top))
    last = int(inside[-1]) if len(inside) else 0
    x, y = line.x[: last + 2].copy(), line.y[: last + 2].copy()
    edge = float(np.clip(y[-1], bottom, top))
    if edge != y[-1]:
        x[-1] = x[-2] + (x[-1] - x[-2]) * (edge - y[-2]) / (y[-1] - y[-2]) if len(inside) else x[-1]
        y[-1] = edge
    return x, y


def draw_rates(axes: Axes, rows: DataFrame, group: Group, column: str, i: int, beside: float) -> None:
    """Draws a value of each run by its learning rate, moved ``beside``, and a cross where one of them has none."""
    look = style(i)
    small: dict[str, Any] = {"color": look["color"], "linestyle": "none"}
    means = []
    for rate in sorted(rate for rate in group.rates if rate is not None):
        here = rows[rows["lr"] == rate]
        values = here[column].where(~here["diverged"].astype(bool)).to_numpy(dtype=float).tolist()
        finite = [value for value in values if math.isfinite(value)]
        axes.plot([rate * beside] * len(finite), finite, marker=".", markersize=3.5, alpha=0.7, **small)
        ring = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "markeredgewidth": 1.4, **small}
        if len(finite) == len(values) > 0:
            means.append((rate * beside, sum(finite) / len(finite)))
            axes.plot(*means[-1], **ring) if rate == group.chosen else None
        else:
            above = {"transform": axes.get_xaxis_transform(), **small}
            axes.plot([rate * beside], [0.96], marker="x", markersize=6, **above)
            axes.plot([rate * beside], [0.96], **(ring | above)) if rate == group.chosen else None
    axes.plot([x for x, _ in means], [y for _, y in means], **look)


def draw_reached(
    axes: Axes, values: list[float], interval: tuple[float, float], row: float, i: int, first: bool
) -> None:
    """Draws what it took each run to a target in a row, full for the first target, or that it did not get there.

    Args:
        axes: Where.
        values: One for each seed, NaN of one that did not reach it.
        interval: Of the mean of those that did; NaN if there is none.
        row: The place along the axis.
        i: The look.
        first: Whether it is the first target.
    """
    finite = [value for value in values if math.isfinite(value)]
    color = COLOURS[i % len(COLOURS)]
    beside: Any = {"textcoords": "offset points", "va": "center", "fontsize": 8}
    if finite:
        mean = sum(finite) / len(finite)
        axes.plot(finite, [row] * len(finite), ".", color=color, markersize=4, alpha=0.6)
        if all(map(math.isfinite, interval)):
            axes.plot(interval, [row, row], color=color, linewidth=1.4, marker="|", markersize=6)
        look = {"marker": style(i)["marker"], "markersize": 6, "markerfacecolor": color if first else "none"}
        axes.plot([mean], [row], color=color, **look)
    if len(finite) < len(values):
        end = max(value for value in (*finite, *interval) if math.isfinite(value)) if finite else 0
        where: Any = "data" if finite else axes.get_yaxis_transform()
        text = f"{len(finite)} of {len(values)}" if finite else f"none of {len(values)}"
        axes.annotate(text, (end, row), xycoords=where, xytext=(6, 0), color="#777777", **beside)
