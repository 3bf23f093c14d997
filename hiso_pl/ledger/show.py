"""What a ledger holds, as text and as a picture."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from hiso_pl.ledger.compare import difference
from hiso_pl.ledger.format import stored_path
from hiso_pl.ledger.header import Header
from hiso_pl.ledger.reader import LedgerReader
from hiso_pl.zeroth_order.record import RoundRecord, told

SHOWN_SCALARS = 4


def text(reader: LedgerReader, records: int = 5) -> str:
    """Tells of a ledger's run, and of its last records.

    Text that comes from the file is shown as ASCII, so that no name in it reaches a terminal as a command.
    """
    header, survey = reader.header, reader.survey()
    lines = _facts(reader, header)
    for i, (round, later) in enumerate(survey.headers[1:]):
        lines.append(("changed", f"from round {round} on: {difference(survey.headers[i][1], later)}"))
    last: deque[str] = deque(maxlen=records)
    dropped = empty = 0
    for entry in reader.entries():
        if isinstance(entry, Header):
            header = entry
            continue
        dropped += len(entry.dropped)
        empty += entry.empty
        last.append(_line(entry, header.own_directions))
    lines.append(("dropped", f"{dropped} slots in all; {empty} rounds in which nobody was left"))
    shown = [f"{name:<10}{_ascii(value)}" for name, value in lines]
    if last:
        shown += ["", f"{'round':>8} {'lr':>11} {'mu':>11} {'P':>5} {'mean |g|':>11}  scalars; slots dropped", *last]
    return "\n".join(shown) + "\n"


def plot(reader: LedgerReader, path: Path) -> None:
    """Draws the scalars over the rounds: their mean size and the largest of each round, and the learning rate.

    Raises:
        ValueError: If there is no record.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [
        (r.round, r.lr, float(np.abs(r.scalars).mean()), float(np.abs(r.scalars).max()))
        for r in reader
        if not r.empty  # zeros stand in for scalars there
    ]
    if not rows:
        raise ValueError(f"plot={path}: {reader.path.name} holds no scalars")
    rounds, lr, mean, largest = np.array(rows).T
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    upper.plot(rounds, largest, ".", markersize=2, color="#bbbbbb", label="largest |g|")
    upper.plot(rounds, mean, linewidth=1, color="#4477aa", label="mean |g|")
    upper.set_yscale("log", nonpositive="mask")
    upper.legend()
    lower.plot(rounds, lr, linewidth=1, color="#ee6677")
    lower.set_ylabel("lr")
    lower.set_xlabel("round")
    figure.savefig(path, dpi=120)


def _facts(reader: LedgerReader, header: Header) -> list[tuple[str, str]]:
    survey = reader.survey()
    size = reader.path.stat().st_size
    state = "not closed: the run was interrupted, or goes on"
    if survey.closing is not None:
        state = f"closed, digest {survey.closing.digest}"
    if survey.torn_at is not None:
        state += f"; torn after byte {survey.torn_at}"
    beside = stored_path(reader.path)
    parameters = sum(int(np.prod(t.shape, dtype=np.int64)) for t in header.tensors)
    lines = [
        ("ledger", f"{size:,} bytes, {survey.rounds} rounds, {state}"),
        ("method", "; ".join(f"{name} {_said(value)}" for name, value in header.method.items() if value is not None)),
        ("numbers", f"seed {header.seed}, stream {header.stream}, numerics {header.numerics}"),
        ("clients", f"{header.clients}, {header.cohort} in a cohort"),
        ("weights", f"{header.weights.name or 'built from nothing'} {header.weights.revision or ''}".strip()),
        ("trained", f"{parameters:,} parameters in {len(header.tensors)} tensors, SHA-256 {header.trainable_sha256}"),
        ("frozen", f"SHA-256 {header.frozen_sha256}"),
    ]
    if header.stored:
        there = f"{beside.stat().st_size:,} bytes" if beside.is_file() else "MISSING"
        lines.append(("stored", f"{len(header.stored)} of the tensors in {beside.name}, {there}"))
    lines.append(("versions", ", ".join(f"{name} {version}" for name, version in header.versions.items())))
    return lines


def _said(value: Any) -> str:
    """A number or name of the method; a part as a call of its class."""
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{part}({', '.join(f'{k}={v}' for k, v in options.items())})" for part, options in value.items())


def _line(record: RoundRecord, own: bool) -> str:
    values: Any = record.scalars.reshape(-1)
    scalars = " ".join(f"{v:.6g}" for v in values[:SHOWN_SCALARS].tolist())
    more = f" ... {len(values)} in all" if len(values) > SHOWN_SCALARS else ""
    dropped = f"; {told(record.dropped)}" if record.dropped else ""
    mean = float(np.abs(values).mean())
    drawn = record.scalars.shape[1]
    size = f"{record.cohort}x{drawn // record.cohort}" if own else str(drawn)
    return f"{record.round:>8} {record.lr:>11.4g} {record.mu:>11.4g} {size:>5} {mean:>11.4g}  {scalars}{more}{dropped}"


def _ascii(value: str) -> str:
    """Without anything that a terminal acts upon."""
    return json.dumps(value)[1:-1].replace('\\"', '"').replace("\\\\", "\\")
