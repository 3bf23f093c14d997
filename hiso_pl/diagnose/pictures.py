"""The pictures of a diagnosis: who has gradient, noise and curvature, how H follows the true diagonal, eigenvalues."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hiso_pl.diagnose.diagnosis import Diagnosis
from hiso_pl.report.look import COLOURS, canvas, look, numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

ROWS = 14
"""Tensors that have bars of their own; of more, blocks have, and of more blocks those with the most."""
DENSE = 4000
"""Points from which on their density is drawn."""
LOST = 0.1
"""What has more below 0 than this part of its sum, as a square that noise covers, has no shares to show."""
NOTHING = 1e-7
"""Eigenvalues of less than this part of the largest are rounding."""
SHARES = {
    "gradient_sq": "squared gradient G",
    "noise_sq": "minibatch noise V",
    "gauss_newton_trace": "Gauss-Newton trace",
}
CURVES: dict[str, dict[str, str]] = {
    "loss": {"loss": "loss"},
    "squares of a gradient": {"gradient_sq": "whole, G", "noise_sq": "minibatch noise, V"},
    "curvature": {"hessian_trace": "trace", "gauss_newton_trace": "Gauss-Newton", "lambda_max": "largest eigenvalue"},
    "effective rank": {"effective_rank": "trace / largest eigenvalue"},
    "headroom of own directions": {"headroom_logged": "as scalar/headroom shows it", "headroom": "of expectations"},
    "learning rate": {"greedy_lr": "greedy", "lr": "of the run"},
    "correlation of H with the true diagonal": {
        "spearman_elements": "over elements",
        "spearman_tensors": "over tensors",
    },
}
"""The panels over rounds: what is drawn in each, and what it is called there."""


def overview(found: Diagnosis, title: str) -> Figure:
    """All of one diagnosis in a picture: shares by tensor, H against the true diagonal, eigenvalues."""
    table = shares(found.tensors)
    with look():
        figure = canvas(max(4.6, 1.2 + 0.34 * len(table)))
        grid = figure.add_gridspec(2, 2, width_ratios=(1.15, 1))
        _bars(figure.add_subplot(grid[:, 0]), table)
        _scatter(figure.add_subplot(grid[0, 1]), found)
        _spectrum(figure.add_subplot(grid[1, 1]), found)
        figure.suptitle(title, fontsize=10)
    return figure


def over_rounds(found: Mapping[int, Diagnosis], rates: Mapping[int, float]) -> Figure:
    """What changes from round to round, a panel for each kind of number.

    Args:
        found: The diagnoses by their rounds.
        rates: The run's learning rate at each.
    """
    rounds = sorted(found)
    told = pd.DataFrame({r: {**found[r].whole, **found[r].quality, "lr": rates[r]} for r in rounds}).T
    panels = [(name, {k: v for k, v in curves.items() if k in told}) for name, curves in CURVES.items()]
    panels = [(name, curves) for name, curves in panels if curves]
    rows = -(-len(panels) // 3)
    with look():
        figure = canvas(2.3 * rows)
        grid = figure.subplots(rows, 3, squeeze=False).reshape(-1)
        for axes, (name, curves) in zip(grid, panels, strict=False):
            for i, (key, label) in enumerate(curves.items()):
                style = {"color": COLOURS[i % len(COLOURS)], "marker": "osD^v"[i % 5]}
                axes.plot(rounds, told[key].astype(float), label=label, **style)
            values = told[list(curves)].to_numpy(float)
            known = values[np.isfinite(values)]
            positive = known[known > 0]
            # 0 at a schedule's end and a square lost in noise have no place there, and need none
            if len(positive) and known.min() > -0.01 * positive.max() and positive.max() / positive.min() > 20:
                axes.set_yscale("log", nonpositive="mask")
                _decades(axes.yaxis)
            axes.set(title=name, xlabel="round")
            if len(curves) > 1:
                axes.legend(frameon=False, fontsize=7)
        for axes in grid[len(panels) :]:
            axes.remove()
    return figure


def pixels_of(figure: Figure) -> NDArray[np.uint8]:
    """A picture as pixels, shape ``[height, width, 3]``."""
    with look():
        figure.canvas.draw()
    canvas_: Any = figure.canvas
    pixels: NDArray[np.uint8] = np.asarray(canvas_.buffer_rgba())[..., :3].copy()
    return pixels


def shares(tensors: pd.DataFrame) -> pd.DataFrame:
    """Shares of the whole by tensor, or by block where there are many tensors, in their order; the rest in one row."""
    known = [name for name in ("elements", *SHARES) if name in tensors and tensors[name].notna().all()]
    columns = [name for name in known if tensors[name].clip(upper=0).sum() > -LOST * tensors[name].sum()]
    table = tensors.groupby("tensor" if len(tensors) <= ROWS else "block", sort=False)[columns].sum()
    if len(table) > ROWS:
        most = table.div(table.sum()).max(axis=1).nlargest(ROWS - 1).index
        rest = table.drop(index=most)
        table = pd.concat([table.loc[table.index.isin(most)], rest.sum().to_frame(f"{len(rest)} others").T])
    return table.div(table.sum())


def _bars(axes: Axes, table: pd.DataFrame) -> None:
    drawn = [name for name in SHARES if name in table]
    places, height = np.arange(len(table)), 0.8 / max(1, len(drawn))
    for i, name in enumerate(drawn):
        at = places + (i - (len(drawn) - 1) / 2) * height
        axes.barh(at, 100 * table[name], height, color=COLOURS[[*SHARES].index(name)], label=SHARES[name], linewidth=0)
    axes.plot(100 * table["elements"], places, "|", color="black", markersize=14, label="share of the elements")
    axes.set(yticks=places, ylim=(len(table) - 0.4, -0.6), xlabel="percent of the whole")
    axes.set_yticklabels([_short(str(name)) for name in table.index])
    axes.grid(False, axis="y")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, fontsize=8)


def _scatter(axes: Axes, found: Diagnosis) -> None:
    points = found.elements
    if points is None or not len(points):
        axes.axis("off")
        axes.text(0.5, 0.5, "no H", ha="center")
        return
    h, true = points["h"].to_numpy(float), points["true_diagonal"].to_numpy(float)
    kept = (h > 0) & (true > 0)
    what = "" if found.exact else ", estimated"
    left = f"; {np.mean(true <= 0):.0%} of the elements are not positive" if (true <= 0).any() else ""
    axes.set(xlabel=f"true diagonal{what}", ylabel="H", title=f"H by element{left}")
    if not kept.any():
        return
    axes.set(xscale="log", yscale="log")
    if kept.sum() > DENSE and np.ptp(np.log10(h[kept])) > 0:
        axes.hexbin(true[kept], h[kept], gridsize=45, xscale="log", yscale="log", bins="log", cmap="cividis", mincnt=1)
    else:
        axes.plot(true[kept], h[kept], ".", color=COLOURS[0], markersize=2.5, alpha=0.5, rasterized=True)
    ends = np.quantile(true[kept], (0.0, 1.0))
    through = np.exp(np.median(np.log(h[kept]) - np.log(true[kept])))
    axes.plot(ends, ends * through, "--", color=COLOURS[1], linewidth=1, label="in proportion")
    axes.legend(frameon=False, loc="upper left", fontsize=8)
    _decades(axes.xaxis, axes.yaxis)


def _spectrum(axes: Axes, found: Diagnosis) -> None:
    values = np.asarray(sorted(found.eigenvalues, key=abs, reverse=True), dtype=np.float64)
    values = values[np.abs(values) > NOTHING * np.abs(values).max(initial=0.0)]
    places, size = np.arange(1, len(values) + 1), 4 if len(values) <= 30 else 2
    for chosen, colour, label in ((values >= 0, COLOURS[0], "positive"), (values < 0, COLOURS[1], "negative")):
        if chosen.any():
            axes.plot(places[chosen], np.abs(values[chosen]), "o", color=colour, markersize=size, label=label)
    axes.set(xlabel="by size", ylabel="|eigenvalue|", title="eigenvalues of the Hessian")
    if not len(values):
        return
    axes.legend(frameon=False, fontsize=8)
    if len(values) > 30:
        axes.set(xscale="log", yscale="log")
        _decades(axes.xaxis, axes.yaxis)
    else:
        axes.set_xticks(places[:: max(1, len(places) // 8)])
        axes.set_ylim(bottom=0)


def _decades(*axes: Axis) -> None:
    """Plain numbers along logarithmic axes, in few places."""
    for axis in axes:
        numbers(axis, log=True)


def _short(name: str) -> str:
    return name if len(name) <= 34 else f"\u2026{name[-33:]}"
