"""How many forward passes a round takes, from the configuration of a run that has not logged them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

METHOD = "model.method"
FORWARDS = "cost/forwards"
"""The curve of what a run has spent."""
BACKWARD = 2
"""Forward passes that a backward pass counts as: it computes the gradient by the weights and by what goes into a layer,
each as much work as the layer's own pass."""


def by_gradients(options: Mapping[str, str]) -> bool:
    """Whether a method of this package goes by gradients, which cost backward passes."""
    kind = options.get(f"{METHOD}.class_path", "").strip("'")
    return kind.startswith("hiso_pl.first_order.") and not kind.endswith(".FedZO")


def per_round(options: Mapping[str, str], summary: Mapping[str, Any], folder: Path) -> int | None:
    r"""Forward passes of a round's whole cohort, a backward pass counted as two.

    .. math::
        m \tau (P + 1) \text{ or } 2 m \tau P, \text{ by the differences};
        \qquad 3 m \tau \text{ by gradients}

    Args:
        options: The run's configuration, as text under dotted keys.
        summary: Its summary, which tells the cohort.
        folder: Its folder, which keeps the configurations that it was begun with.

    Returns:
        None where it is not the same in each round, or not known: with a schedule of P, local epochs, a method from
        elsewhere, or a configuration that was changed on the way.
    """

    def option(name: str) -> str:
        return options.get(f"{METHOD}.init_args.{name}", options.get(f"{METHOD}.{name}", ""))

    kind = options.get(f"{METHOD}.class_path", "").strip("'")
    cohort, steps = str(summary.get("cohort") or options.get("data.init_args.cohort", "")), option("local_steps")
    whole = option("num_directions_schedule") in ("", "None") and option("local_epochs") in ("", "0")
    changed = any(folder.glob("config.until-round-*.yaml"))
    if not kind.startswith("hiso_pl.") or not cohort.isdigit() or not steps.isdigit() or changed or not whole:
        return None
    directions = option("num_directions")
    if by_gradients(options):
        return int(cohort) * int(steps) * (1 + BACKWARD)
    if not directions.isdigit():
        return None
    each = {"'forward'": int(directions) + 1, "'central'": 2 * int(directions)}.get(option("difference"))
    return None if each is None else int(cohort) * int(steps) * each
