"""What is in a split, and in each client's part of it: sizes, lengths, cuts and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiso_pl.data.examples import ExampleSet, Splits
from hiso_pl.data.ownership import Ownership

MAX_CLIENTS = 200  # more are counted, not described


def describe(examples: ExampleSet, indices: NDArray[np.int64] | None = None) -> dict[str, Any]:
    """Counts what is in a set of examples.

    Args:
        examples: The examples.
        indices: Positions of those to count; None counts all.

    Returns:
        ``examples``; where there are tokens ``tokens`` (``min``, ``median``, ``max`` of an example) and ``cut``, the
        examples that lost text; for answers ``answers_cut``; for classes ``labels``, the examples of each by its name;
        of a whole set ``left_out``, the rows that had a blank, if any had.
    """
    chosen = np.arange(len(examples)) if indices is None else indices
    found: dict[str, Any] = {"examples": len(chosen)}
    lengths = examples.attributes.get("length")
    if lengths is not None and len(chosen):
        own = lengths[chosen]
        found["tokens"] = {"min": int(own.min()), "median": float(np.median(own)), "max": int(own.max())}
    for name, attribute in (("cut", "cut"), ("answers_cut", "answer_cut")):
        flags = getattr(examples, attribute, None)
        if flags is not None:
            found[name] = int(flags[chosen].sum())
    if examples.classes:
        counts = np.bincount(examples.labels[chosen], minlength=len(examples.classes))
        found["labels"] = dict(zip(examples.classes, counts.tolist(), strict=True))
    left_out = getattr(examples, "left_out", 0)
    if left_out and indices is None:
        found["left_out"] = left_out
    return found


def statistics_of(splits: Splits, ownership: Ownership) -> dict[str, Any]:
    """What :func:`describe` finds of each split, and of each client's training examples under ``clients``.

    Of very many clients the first 200 are described. Of a client whose examples are on another rank only, their number.
    """
    found: dict[str, Any] = {
        name: describe(examples)
        for name, examples in zip(("train", "validation", "test"), splits, strict=True)
        if examples is not None
    }
    found["clients"] = [
        describe(splits.train, ownership.hosted[client]) if client in ownership.hosted else {"examples": size}
        for client, size in enumerate(ownership.sizes[:MAX_CLIENTS].tolist())
    ]
    return found


def counts_line(found: dict[str, Any]) -> str:
    """What :func:`describe` found as a line for the log; of many classes the first ten."""
    parts = [f"{found['examples']} examples"]
    if "tokens" in found:
        parts[0] += " of {min} to {max} tokens (median {median:g})".format(**found["tokens"])
    if found.get("cut"):
        parts.append(f"{found['cut']} cut")
    if found.get("answers_cut"):
        parts.append(f"{found['answers_cut']} answers cut")
    if "left_out" in found:
        parts.append(f"{found['left_out']} rows left out for a blank")
    labels = [f"{name} {count}" for name, count in found.get("labels", {}).items()]
    if labels:
        parts.append("labels " + ", ".join([*labels[:10], *(["..."] if len(labels) > 10 else [])]))
    return "; ".join(parts)


def clients_table(clients: Sequence[dict[str, Any]], total: int) -> str:
    """What :func:`describe` found of each client as a Markdown table, and how many of all clients are not in it."""
    if not clients:
        return ""
    first = max(clients, key=len)  # of a client on another rank only the number of examples may be known
    columns = ["client", "examples"]
    if "tokens" in first:
        columns += ["shortest", "median", "longest"]
    columns += [name.replace("_", " ") for name in ("cut", "answers_cut") if name in first]
    columns += [str(name).replace("|", "\\|") for name in first.get("labels", {})]
    lines = ["| " + " | ".join(columns) + " |", "|" + " ---: |" * len(columns)]
    for number, found in enumerate(clients):
        cells = [str(number), str(found["examples"])]
        if "tokens" in found:
            cells += [f"{value:g}" for value in found["tokens"].values()]
        cells += [str(found[name]) for name in ("cut", "answers_cut") if name in found]
        cells += [str(count) for count in found.get("labels", {}).values()]
        lines.append("| " + " | ".join(cells) + " |")
    if total > len(clients):
        lines.append(f"\n{total - len(clients):,} more clients are not listed.")
    return "\n".join(lines)
