"""Small multiples: axes for each setting, the methods' looks, their key, the targets and what of an axis is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hiso_pl.report.look import INK, WIDTH, canvas, style, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hiso_pl.report.curves import Band
    from hiso_pl.report.group import Group
    from hiso_pl.report.run_data import Aim

WRAP = 52  # characters of a label on one line


@dataclass(frozen=True)
class Panels:
    """Which axes a group is drawn in, and how: looks are of methods, or of settings where there is but one method."""

    titles: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, groups: Sequence[Group]) -> Panels:
        """The panels for these groups, in their order."""
        methods, settings = (tuple(dict.fromkeys(getattr(g, name) for g in groups)) for name in ("method", "setting"))
        return cls(("",), settings) if len(methods) == 1 else cls(settings, methods)

    def panel(self, group: Group) -> int:
        """Which axes."""
        return 0 if len(self.titles) == 1 else self.titles.index(group.setting)

    def look(self, group: Group) -> int:
        """Which look."""
        return self.names.index(group.setting if group.method not in self.names else group.method)

    def name(self, group: Group) -> str:
        """What tells it from others in the same axes; its own label if there are none."""
        return self.names[self.look(group)] or group.method or group.label

    def figure(
        self, key: Mapping[int, str], says: str, xlabel: str, ylabel: str, apart: bool = False
    ) -> tuple[Figure, list[Axes]]:
        """A picture with axes for each title, and below them a line of words and a key of labels by look.

        The axes have their scales in common, but for x where they are to be ``apart``.
        """
        from matplotlib.lines import Line2D

        titles = self.titles
        across = len(titles) if len(titles) < 4 else 2 if len(titles) == 4 else 3
        down = -(-len(titles) // across)
        figure = canvas(3.9 if down == 1 else 2.4 * down + 0.5, WIDTH if across > 1 else 7.5)
        axes = list(figure.subplots(down, across, sharex=not apart, sharey=True, squeeze=False).flat)
        for spare in axes[len(titles) :]:
            spare.remove()
        for i, (at, title) in enumerate(zip(axes, titles, strict=False)):
            at.set_title(wrapped(title, 120 // across), loc="left")
            lowest = i + across >= len(titles)
            at.tick_params(labelbottom=lowest or apart)
            at.set_xlabel(wrapped(xlabel, 120 // across) if lowest else "")
            at.set_ylabel(wrapped(ylabel, 40) if i % across == 0 else "")
        handles = [Line2D([], [], **style(i)) for i in sorted(key)]
        look: dict[str, Any] = {"loc": "outside lower center", "frameon": False, "handlelength": 3.2}
        look |= {"title": says, "title_fontsize": 8, "labels": [key[i] for i in sorted(key)], "alignment": "left"}
        for columns in range(min(len(key), 6), 0, -1):  # as many as there is room for
            legend = figure.legend(handles=handles, ncols=columns, **look)
            box = legend.get_window_extent()
            if box.width < figure.bbox.width - 8 or columns == 1:
                break
            legend.remove()
        figure.set_figheight(figure.get_figheight() + box.height / figure.dpi - 0.3)
        return figure, axes[: len(titles)]


def targets(axes: Sequence[Axes], aim: Aim) -> None:
    """Draws each target as a line, and names it outside, at the right, those that lie close together in one word."""
    low, high = axes[0].get_ylim()
    shown = sorted(target for target in aim.targets if low <= target <= high)
    words: list[list[float]] = []
    for target in shown:
        if words and target - words[-1][-1] < 0.045 * (high - low):
            words[-1].append(target)
        else:
            words.append([target])
    for at in axes:
        for target in shown:
            at.axhline(target, color=INK, alpha=0.7, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
        if (place := at.get_subplotspec()) is None or place.is_last_col() or at is axes[-1]:
            for close in words:
                where: Any = {"xytext": (3, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
                text, middle = ", ".join(f"{target:g}" for target in close), sum(close) / len(close)
                at.annotate(text, (1, middle), xycoords=("axes fraction", "data"), annotation_clip=False, **where)


def limit(axes: Sequence[Axes], aim: Aim, bands: Sequence[Band]) -> None:
    """Shows all runs that did not diverge, and the targets that are not far from them.

    Of a run that diverged, by a metric of which less is better, a quarter above where runs began is shown of what was
    gained: a loss of 1e30 would leave but a flat line of all the others.
    """
    kept = [value for one in bands for y in (one.low, one.high) for value in y.tolist()]
    kept += [value for one in bands for line in one.alone if not line.diverged for value in line.y.tolist()]
    lost = [value for one in bands for line in one.alone if line.diverged for value in line.y.tolist()]
    starts, lowest = max(one.first for one in bands), min([*kept, *lost])
    if aim.lower and lost:
        gained = starts - lowest
        beyond = starts + (0.25 * gained if gained > 0.05 * abs(starts) else abs(starts) or 1.0)
        lost = [min(value, beyond) for value in lost]
    low, high = min([*kept, *lost]), max([*kept, *lost])
    room = high - low or abs(high) or 1.0
    near = [target for target in aim.targets if low - room <= target <= high + room]
    low, high = min([low, *near]), max([high, *near])
    if aim.lower and low > 0 and high > 20 * low:
        axes[0].set_yscale("log")
        axes[0].set_ylim(low / 1.1, high * 1.1)
    else:
        room = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
        axes[0].set_ylim(low - room, high + room)
