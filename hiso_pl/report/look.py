"""How all pictures look: colours for the colour-blind, lines and marks for grey print, bytes that repeat."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
"""Those of Okabe and Ito, https://jfly.uni-koeln.de/color, without yellow, and with a grey for their black."""
DARK = ("#4FA9DE", "#F0833F", "#2FC79A", "#DD9DC0", "#F0B840", "#8CCBF2", "#A6A6A6")
"""The same, lighter, on dark paper."""
LINES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1, 1.2)), (0, (6, 1.4, 1, 1.4)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = "osD^vPX<>"  # the three lengths have no common factor: 315 looks before the first comes again
INK = "#1b1f24"
"""Of all that is neither line nor mark; a page replaces it by the colour of its text."""
WIDTH = 9.6
"""Inches of a whole picture: 9 points are legible at the width of a page."""

LOOK: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.18,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "grid.color": INK,
    "text.parse_math": False,  # a method may be named $
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
    "svg.hashsalt": "hiso_pl",  # instead of a random one
    "figure.dpi": 100,
    "savefig.dpi": 160,
}
MARK = "hiso-pl report"
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": MARK},
    "pdf": {"CreationDate": None, "Creator": MARK, "Producer": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
}
"""No dates and versions: a report made twice is the same file. The mark says whose a picture is."""


@contextmanager
def look() -> Iterator[None]:
    """Matplotlib's own settings and these, whatever the user's file says."""
    import matplotlib as mpl

    with warnings.catch_warnings(), mpl.rc_context():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)  # boxes in the place of rare letters
        mpl.rcdefaults()
        mpl.rcParams.update(LOOK)
        yield


def encoded(figure: Figure, kind: str) -> bytes:
    """A picture as the bytes of a file: ``png``, ``pdf`` or ``svg``; the same picture gives the same bytes."""
    written = io.BytesIO()
    with look():
        figure.savefig(written, format=kind, metadata=METADATA[kind], transparent=kind == "svg")
    return written.getvalue()


def canvas(height: float, width: float = WIDTH) -> Figure:
    """An empty picture, in inches, that no window knows of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def settled(figure: Figure) -> Figure:
    """The picture with all its parts where they belong, so that writing it in another form does not seek them again."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def style(i: int) -> dict[str, Any]:
    """Colour, line and marker of the i-th method."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "linestyle": LINES[i % len(LINES)],
        "marker": MARKERS[i % len(MARKERS)],
    }


def wrapped(text: str, width: int) -> str:
    """Text on lines of a width, and never left out, as Matplotlib does with what begins with an underscore."""
    lines = textwrap.fill(" ".join(text.split()), width, break_on_hyphens=False)
    return f" {lines}" if lines.startswith("_") else lines


def number(value: float) -> str:
    """A number on an axis, in full below a million."""
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:g} {unit}"
    return f"{value:,g}"


def numbers(axis: Any, log: bool = False, across: int = 1) -> None:
    """Plain numbers along an axis; on a logarithmic one, of so many side by side, few enough that they do not meet."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if log:
        low, high = sorted(axis.get_view_interval())
        decades = (math.log10(high / low) if low > 0 else 1.0) * max(1.0, across / 2)
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.8 else (1, 3) if decades < 3 else (1,)))
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def rate_ticks(axes: Axes, rates: Sequence[float]) -> None:
    """Ticks of a logarithmic axis at the learning rates themselves, those that would meet left out."""
    found = sorted(set(rates))
    across = round(1 / axes.get_position().width)
    apart, kept = (found[-1] / found[0]) ** (0.08 * across), found[:1]
    for rate in found[1:]:
        if rate >= kept[-1] * apart:
            kept.append(rate)
    axes.set_xticks(kept, [f"{rate:g}" for rate in kept])
    axes.set_xticks([], minor=True)
