"""A diagnosis as tables: in a terminal, and as Markdown, CSV and JSON in a folder."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from hiso_pl.diagnose.diagnosis import Diagnosis
from hiso_pl.diagnose.meanings import MEANINGS
from hiso_pl.run.folder import json_text, write_atomically
from hiso_pl.run.whole_file import whole_file

if TYPE_CHECKING:
    from rich.table import Table

DOCUMENT = "diagnosis.json"
WIDE = 160
"""Characters of a line where no terminal says how wide it is."""
LONG = 20
"""Tensors from which on blocks are shown in their place, where everything is to be seen at once."""
BY_TENSOR = {
    "elements": "elements",
    "gradient_sq": "G",
    "noise_sq": "V",
    "gauss_newton_trace": "Gauss-Newton",
    "hessian_trace": "trace",
    "h_mean": "mean H",
    "true_mean": "mean diagonal",
    "ratio": "ratio",
    "correlation": "correlation",
}


@dataclass(frozen=True)
class Found:
    """What was found at one round.

    Attributes:
        round: The round that comes next.
        lr: The learning rate of the run there.
        diagnosis: The numbers.
        notes: What a reader must be told of them.
    """

    round: int
    lr: float
    diagnosis: Diagnosis
    notes: Sequence[str] = field(default_factory=tuple)


def numbers_of(found: Sequence[Found]) -> pd.DataFrame:
    """All numbers, a row each in the order of their meanings, a column a round."""
    columns = {f"round {one.round}": {**one.diagnosis.whole, **one.diagnosis.quality, "lr": one.lr} for one in found}
    table = pd.DataFrame(columns)
    known = [name for name in (*MEANINGS, "lr") if name in table.index]
    return table.loc[[*known, *(name for name in table.index if name not in known)]]


def meaning(name: str) -> str:
    """What a number is, in a line."""
    return "learning rate of the run" if name == "lr" else MEANINGS.get(name, "")


def tensors_of(one: Found, shown: bool = False) -> pd.DataFrame:
    """The table by tensor; where it is to be shown and there are many, by block."""
    diagnosis = one.diagnosis
    if shown and len(diagnosis.tensors) > LONG:
        table = diagnosis.blocks().rename(columns={"block": "tensor"})
    else:
        table = diagnosis.tensors
    if not shown:
        return table
    kept = [name for name in BY_TENSOR if name in table and table[name].notna().any()]
    return table[["tensor", *kept]].rename(columns=BY_TENSOR)


def notes_of(found: Sequence[Found]) -> list[str]:
    """All notes, each once, with the rounds that it is of where it is not of all."""
    rounds: dict[str, list[int]] = {}
    for one in found:
        for note in one.notes:
            rounds.setdefault(note, []).append(one.round)
    return [
        note if len(of) == len(found) else f"round {', '.join(map(str, of))}: {note}" for note, of in rounds.items()
    ]


def say(title: str, found: Sequence[Found]) -> None:
    """Writes the tables to the terminal, or as wide as they are where there is none."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else WIDE, highlight=False, markup=False)
    numbers = numbers_of(found)
    rows = [[str(name), *map(number, row), meaning(str(name))] for name, row in numbers.iterrows()]
    console.print(_rich(title, ["number", *numbers, "what it is"], rows, words=(0, len(numbers.columns) + 1)))
    for one in found:
        table = tensors_of(one, shown=True)
        rows = [[number(value) for value in row] for _, row in table.iterrows()]
        console.print()
        console.print(_rich(f"round {one.round}, by tensor", [*table], rows, words=(0,)))
    for note in notes_of(found):
        console.print(f"note: {note}")


def _rich(title: str, head: Sequence[Any], rows: Sequence[Sequence[str]], words: Sequence[int]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    for i, name in enumerate(head):
        table.add_column(Text(str(name)), justify="left" if i in words else "right", no_wrap=i not in words[1:])
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def number(value: Any) -> str:
    """A number in four digits, a count in full, a dash where there is none."""
    if isinstance(value, str):
        return value
    value = float(value)
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def markdown(title: str, found: Sequence[Found]) -> str:
    """Everything that is said, as a text in Markdown."""
    numbers = numbers_of(found)
    rows = [[name, *map(number, row), meaning(str(name))] for name, row in numbers.iterrows()]
    parts = [f"# {title}", _table(["number", *numbers, "what it is"], rows)]
    for one in found:
        table = tensors_of(one, shown=True)
        parts += [
            f"## Round {one.round}, by tensor",
            _table([*table], [map(number, row) for _, row in table.iterrows()]),
        ]
    notes = notes_of(found)
    parts += ["## Notes", "\n".join(f"- {note}" for note in notes)] if notes else []
    return "\n\n".join(parts) + "\n"


def document(title: str, found: Sequence[Found], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that was found, as plain data."""
    return {
        "title": title,
        "asked": dict(asked),
        "meanings": {**MEANINGS, "lr": meaning("lr")},
        "rounds": [
            {
                "round": one.round,
                "lr": one.lr,
                "exact": one.diagnosis.exact,
                "numbers": {**one.diagnosis.whole, **one.diagnosis.quality},
                "eigenvalues": list(one.diagnosis.eigenvalues),
                "tensors": one.diagnosis.tensors.to_dict("records"),
                "notes": list(one.notes),
            }
            for one in found
        ],
    }


def write(folder: Path, title: str, found: Sequence[Found], asked: Mapping[str, Any]) -> None:
    """Writes tables and pictures into a folder, the document last: a folder without it is not whole.

    Raises:
        OSError: If it cannot be written.
    """
    from hiso_pl.diagnose.pictures import over_rounds, overview
    from hiso_pl.report.look import encoded

    folder.mkdir(parents=True, exist_ok=True)
    pictures = {f"round-{one.round}": overview(one.diagnosis, f"{title}, round {one.round}") for one in found}
    if len(found) > 1:
        diagnoses = {one.round: one.diagnosis for one in found}
        pictures["rounds"] = over_rounds(diagnoses, {one.round: one.lr for one in found})
    for name, figure in pictures.items():
        for kind in ("png", "pdf"):
            with whole_file(folder / f"{name}.{kind}") as part:
                part.write_bytes(encoded(figure, kind))
    by_tensor = pd.concat([tensors_of(one).assign(round=one.round) for one in found])
    write_atomically(folder / "numbers.csv", numbers_of(found).to_csv(index_label="number"))
    write_atomically(folder / "tensors.csv", by_tensor.to_csv(index=False))
    write_atomically(folder / "diagnosis.md", markdown(title, found))
    write_atomically(folder / DOCUMENT, json_text(document(title, found, asked), indent=1) + "\n")


def _table(head: Sequence[Any], rows: Sequence[Any]) -> str:
    lines = [[*map(str, head)], ["---"] * len(head), *([*map(str, row)] for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
