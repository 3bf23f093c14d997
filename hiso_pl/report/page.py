"""A comparison as one page of HTML that needs nothing else: no script, font or picture from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from textwrap import shorten
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

from hiso_pl.report import tables
from hiso_pl.report.choice import rule
from hiso_pl.report.figures import AXES
from hiso_pl.report.labels import OWN, differing
from hiso_pl.report.look import COLOURS, DARK, INK, encoded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hiso_pl.report.comparison import Comparison
    from hiso_pl.report.run import RunData

SVG, LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
FACTS = ("clients", "cohort", "ranks", "parameters")
LEAST = 9.0
"""Pixels of text in a picture on a small screen, where it may be scrolled instead."""


class Picture(NamedTuple):
    """A picture with its words."""

    title: str
    alt: str
    svg: Any


def page(comparison: Comparison, figures: Mapping[str, Figure], question: str = "", command: str = "") -> str:
    """One HTML text, with pictures inside; names, notes and options are text, whatever they hold.

    Args:
        comparison: What is told.
        figures: Its pictures by name, as :func:`~hiso_pl.report.figures.pictures` gives them.
        question: What it is to answer, in a sentence.
        command: The command that makes it.
    """
    import jinja2
    from markupsafe import Markup

    runs = [run for group in comparison.groups for row in group.rates.values() for run in row]
    shared, own = _configuration(comparison)
    pictures = [
        Picture(_title(name, comparison), _alt(name, comparison), Markup(inline(figure, name)))
        for name, figure in figures.items()
    ]
    template = resources.files("hiso_pl.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(template).render(
        colours=COLOURS,
        dark=DARK,
        title=question or _comparing(comparison),
        aim=comparison.aim,
        rule=rule(comparison.aim),
        command=command,
        notes=comparison.notes,
        warnings=sum(note.startswith("Warning") for note in comparison.notes),
        results=_by_part(tables.told, tables.columns(comparison), comparison),
        paired=_by_part(tables.between, tables.pair_columns(comparison), comparison),
        pictures=pictures,
        rates=tables.every_rate(comparison),
        intervals=tables.INTERVALS,
        shared=shared,
        own=own,
        seeds=", ".join(map(str, sorted({run.seed for run in runs if run.seed is not None}))),
        facts=_facts(runs),
        runs=len(runs),
    )


def inline(figure: Figure, name: str) -> str:
    """A picture as an SVG element whose ink is the colour of the text around it, and whose ids are its own."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", LINK)
    root = ElementTree.fromstring(encoded(figure, "svg"))
    for found in root.findall(f"{{{SVG}}}metadata"):
        root.remove(found)
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                value = f"{name}-{value}"
            element.set(key, _coloured(value.replace("url(#", f"url(#{name}-")))
        if (link := element.get(f"{{{LINK}}}href", "")).startswith("#"):
            element.set(f"{{{LINK}}}href", f"#{name}-{link[1:]}")
    for size in ("width", "height"):
        root.attrib.pop(size, None)  # the page gives it
    least = figure.get_figwidth() * 72 * LEAST / 9
    root.set("style", f"min-width: {least:.0f}px; max-width: {1.45 * least:.0f}px")
    root.set("aria-hidden", "true")  # the words beside it are read
    return ElementTree.tostring(root, encoding="unicode")


def _by_part(
    made: Callable[[Comparison, Sequence[tables.Column]], tables.Table],
    columns: Sequence[tables.Column],
    comparison: Comparison,
) -> list[tables.Table]:
    """A table for each target and one for the end, so that none is wider than a page."""
    by_part: dict[str, list[tables.Column]] = {}
    for column in columns:
        by_part.setdefault(column.part, []).append(column)
    found, order = [], list(dict.fromkeys(group.setting for group in comparison.groups))
    for part, shown in by_part.items():
        table = made(comparison, shown)
        rows = table.rows
        if "setting" in table.head:  # the methods of one stand together
            rows = sorted(rows, key=lambda row: order.index(row[table.head.index("setting")]))
        head = [name.removesuffix(f" to {part}") for name in table.head]
        caption = f"To {comparison.aim.metric} of {part}" if part else "At the end"
        found.append(table._replace(caption=caption, head=head, rows=rows))
    return [table for table in found if table.rows]


def _coloured(text: str) -> str:
    """Colours by their names in the page, which has others for a dark one."""
    names = {INK: "currentColor"} | {colour.lower(): f"var(--c{i})" for i, colour in enumerate(COLOURS)}
    for colour, name in names.items():
        text = text.replace(colour, name)
    return text


def _comparing(comparison: Comparison) -> str:
    methods = list(dict.fromkeys(shorten(group.method or group.label, 40) for group in comparison.groups))
    more = f" and {len(methods) - 4} more" if len(methods) > 4 else ""
    return f"{comparison.aim.metric} of {', '.join(methods[:4])}{more}" if any(methods) else comparison.aim.metric


def _title(name: str, comparison: Comparison) -> str:
    aim = comparison.aim
    by = name.removeprefix("by-").replace("-", "_")
    if by in AXES:
        return f"{aim.metric} by {AXES[by]}"
    titles = {"targets": "What it takes to reach the targets", "rates": "What the learning rate does"}
    return titles.get(name, name)


def _alt(name: str, comparison: Comparison) -> str:
    """What a picture shows, for those who do not see it."""
    words, what = [_title(name, comparison)], "best" if name == "rates" else "last"
    for row in comparison.summary.to_dict("records"):
        rate = f" at {row['lr']:g}" if row["lr"] == row["lr"] else ""
        if math.isfinite(row["first"]) and math.isfinite(row[what]):
            words.append(f"{row['label']}{rate}: {row['first']:.3g} at first, {what} {row[what]:.3g}")
    return ". ".join(words) + ". The tables have the numbers."


def _configuration(comparison: Comparison) -> tuple[list[tuple[str, str]], list[tuple[str, list[tuple[str, str]]]]]:
    """Options that all runs share, and those that each method and setting has of its own."""
    runs = {g.label: [run.options for row in g.rates.values() for run in row if run.options] for g in comparison.groups}
    every = [options for found in runs.values() for options in found]
    apart = [key for key in differing(every) if key not in (*OWN, "trainer.default_root_dir")]
    shared = [(key, value) for key, value in (every[0] if every else {}).items() if key not in (*apart, *OWN)]
    own = []
    for label, found in runs.items():
        values = {key: {options.get(key, "") for options in found} for key in apart}
        own.append((label, [(key, has.pop()) for key, has in values.items() if len(has) == 1 and has != {""}]))
    return [pair for pair in shared if pair[0] != "trainer.default_root_dir"], [pair for pair in own if pair[1]]


def _facts(runs: Sequence[RunData]) -> list[tuple[str, str]]:
    """What the runs' summaries say of where they ran, each value once."""
    found: dict[str, list[str]] = {}
    for summary in (run.summary for run in runs if run.summary):
        versions = summary.get("versions")
        facts = {name: summary.get(name) for name in FACTS} | (versions if isinstance(versions, dict) else {})
        for name, value in facts.items():
            text = f"{value:,}" if isinstance(value, int) else str(value)
            if value is not None and text not in found.setdefault(str(name), []):
                found[str(name)].append(text)
    seconds = [s for run in runs if isinstance(s := run.summary.get("seconds"), (int, float))]
    speeds = [s for run in runs if isinstance(s := run.summary.get("forwards_per_second"), (int, float))]
    more = {"seconds of all runs": [f"{sum(seconds):,.0f}"]} if seconds else {}
    if speeds:
        more["forward passes a second"] = [f"{min(speeds):,.0f} to {max(speeds):,.0f}"]
    return [(name, ", ".join(values)) for name, values in (found | more).items()]
