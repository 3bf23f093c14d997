"""The pictures of a run: who owns what, and the clients' losses."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiso_pl.data.examples import ExampleSet
from hiso_pl.federation.partition import Parts, label_counts, quantile_bins

BARS = 64  # clients that have a bar with a name each
PLACES = 400  # of more, those that follow each other share a place
SHOWN = 5 * PLACES  # of still more, so many stand for all
LENGTH_BINS = 6
WIDTH = 4.4  # inches: TensorBoard shows a picture some 340 pixels wide, so letters must be large against it
PALETTE = (
    *("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#332288", "#dd7788"),
    *("#117733", "#88ccee", "#999933", "#882255", "#44aa99", "#ddaa33", "#bb5566"),
)
OTHERS = "#bbbbbb"


def partition_counts(
    examples: ExampleSet | None,
    parts: Sequence[NDArray[np.int64]] | None,
    sizes: Sequence[int] | NDArray[np.int64],
    attribute: str,
) -> tuple[NDArray[np.int64], tuple[str, ...], str]:
    """What a picture of the partition is made of: examples by client and class, or by client and length.

    Args:
        examples: The training examples.
        parts: The positions of each client's; None where not all are here, and only sizes are known.
        sizes: Examples of each client.
        attribute: What they were divided by; lengths are drawn for ``length``, and where there are no classes.

    Returns:
        Counts, shape ``[M, C]``, of more than 2,000 clients those of so many that lie evenly among them; the names of
        the columns, none for sizes alone; what the columns are.
    """
    shown = np.linspace(0, len(sizes) - 1, min(len(sizes), SHOWN)).astype(np.int64)
    if examples is None or parts is None:
        return np.asarray(sizes, dtype=np.int64)[shown, None], (), ""
    some = Parts.of([parts[int(client)] for client in shown])
    chosen, counted = np.asarray(some.examples), Parts(range(len(some.examples)), some.sizes)
    lengths = getattr(examples, "attributes", {}).get("length")
    if lengths is not None and (attribute == "length" or len(examples.classes) < 2):
        bins = np.unique(quantile_bins(lengths, LENGTH_BINS), return_inverse=True)[1]
        names = [(lengths[bins == b].min(), lengths[bins == b].max()) for b in range(int(bins.max()) + 1)]
        counts = label_counts(counted, bins[chosen], len(names))
        return counts, tuple(f"{low}" if low == high else f"{low} to {high}" for low, high in names), "tokens"
    counts = label_counts(counted, examples.labels_at(chosen), max(1, len(examples.classes)))
    return counts, tuple(name.strip() for name in examples.classes) if counts.shape[1] > 1 else (), "label"


def partition_picture(
    counts: NDArray[np.int64],
    names: Sequence[str] = (),
    title: str = "",
    all_sizes: Sequence[int] | NDArray[np.int64] | None = None,
) -> NDArray[np.uint8]:
    """Draws how many examples each client has, and of what.

    Up to 64 clients have a bar each, with name and number. Of more one picture shows what they have, in the order of
    what they have most of, and another how many clients have how many examples. The most frequent 15 columns have a
    colour of their own, the rest one together.

    Args:
        counts: Examples by client and column, shape ``[M, C]``.
        names: Names of the columns; none where there is one.
        title: What the columns are.
        all_sizes: Examples of each client, where the counts are not of all.

    Returns:
        Pixels, shape ``[height, width, 3]``.
    """
    clients, sizes = len(counts), counts.sum(axis=1)
    counts, names = _frequent(counts, names)
    colours = [*PALETTE, OTHERS]
    labels = [_label(name) for name in names]
    across = max(1, min(5, len(labels), 54 // (max(map(len, labels), default=0) + 8)))
    above = 0.17 * (-(-len(labels) // across) + 1) if labels else 0.0
    few = clients <= BARS
    figure = _figure(above + (0.9 + 0.19 * max(clients, 4) if few else 5.0))
    if few:
        axes = figure.subplots()
        for column, before in enumerate(_before(counts)):
            look = {"color": colours[column], "height": 0.8, "linewidth": 0}
            axes.barh(np.arange(clients), counts[:, column], left=before, **look)
        for client, size in enumerate(sizes.tolist()):
            beside = {"xytext": (4, 0), "textcoords": "offset points"}
            axes.annotate(f"{size:,}", (size, client), va="center", fontsize=8, **beside)
        axes.set(ylim=(clients - 0.4, -0.6), yticks=range(clients), ylabel="client", xlabel="examples")
        axes.tick_params(axis="y", length=0, labelsize=9 if clients <= 32 else 7)
        axes.margins(x=0.1)
    else:
        axes, lower = figure.subplots(2, height_ratios=(2, 1))
        sizes = sizes if all_sizes is None else np.asarray(all_sizes)
        _many(axes, counts, colours, title, len(sizes))
        lower.hist(sizes, bins=min(30, max(1, int(np.ptp(sizes)) + 1)), color="#777777")
        lower.set(xlabel=f"examples of a client: {sizes.min():,} to {sizes.max():,}", ylabel="clients")
        _open(lower)
    _open(axes)
    if labels:
        from matplotlib.patches import Patch

        handles = [Patch(color=colour) for colour in colours[: len(labels)]]
        look = {"loc": "outside upper center", "ncols": across, "frameon": False, "fontsize": 9}
        legend = figure.legend(handles, labels, title=title, **look)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a class may be named $
    return _pixels(figure)


def losses_picture(means: NDArray[np.float64], clients: int, rounds: int) -> NDArray[np.uint8]:
    """Draws mean losses by client (rows) and stretch of rounds (columns); blank where no loss is known."""
    figure = _figure(max(2.4, min(5.0, 1.2 + 0.19 * len(means))))
    axes = figure.subplots()
    low, high = np.nanpercentile(means, (1, 99))
    extent = (0, rounds, clients - 0.5, -0.5)
    image = axes.imshow(means, aspect="auto", interpolation="nearest", extent=extent, vmin=low, vmax=high)
    axes.set(xlabel="round", ylabel="client")
    if clients <= 16:
        axes.set_yticks(range(clients))
    figure.colorbar(image, label="training loss", extend="both")
    return _pixels(figure)


def _frequent(counts: NDArray[np.int64], names: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """The columns with the most examples, in their order, and the rest in one."""
    if counts.shape[1] <= len(PALETTE):
        return counts, list(names)
    most = np.sort(np.argsort(-counts.sum(axis=0), kind="stable")[: len(PALETTE)])
    rest = np.delete(counts, most, axis=1)
    kept = [names[i] for i in most] if names else []
    return np.column_stack([counts[:, most], rest.sum(axis=1)]), [
        *kept,
        *([f"{rest.shape[1]} others"] if names else []),
    ]


def _many(axes: Any, counts: NDArray[np.int64], colours: Sequence[str], title: str, total: int) -> None:
    """Draws very many clients side by side: the shares of what they have or, of one column, how much."""
    clients, sizes = len(counts), counts.sum(axis=1)
    one = counts.shape[1] == 1
    values = counts / (1 if one else np.maximum(sizes, 1)[:, None])
    most = values.argmax(axis=1)
    values = values[np.lexsort((-values[np.arange(clients), most], most))]
    edges = np.linspace(0, clients, min(clients, PLACES) + 1).astype(np.int64)
    means = np.add.reduceat(values, edges[:-1]) / np.diff(edges)[:, None]
    for column, before in enumerate(_before(means)):
        axes.stairs(before + means[:, column], edges, baseline=before, fill=True, color=colours[column])
    order = "size" if one else f"most frequent {title}"
    ylabel = "examples" if one else "share of examples"
    who = f"{clients:,} clients" if clients == total else f"{clients:,} of {total:,} clients"
    axes.set(xlim=(0, clients), xlabel=f"{who}, by their {order}", ylabel=ylabel)


def _label(name: str) -> str:
    """A name on one line, short, and not left out as matplotlib leaves out those with an underscore in front."""
    line = " ".join(name.split())
    return (" " if line.startswith("_") else "") + (line if len(line) <= 24 else f"{line[:23]}\u2026")


def _before(counts: NDArray[Any]) -> NDArray[Any]:
    """Where each column begins if those of a client lie end to end, shape ``[C, M]``."""
    return np.cumsum(counts, axis=1).T - counts.T


def _figure(height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    return figure


def _open(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _pixels(figure: Any) -> NDArray[np.uint8]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)  # boxes in the place of rare letters
        figure.canvas.draw()
    pixels: NDArray[np.uint8] = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    return pixels
