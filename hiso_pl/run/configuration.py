"""A configuration as its leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OF_A_MACHINE = (
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes"),
    "trainer.strategy.init_args.interface",
)
"""Options that need not be the same on all machines of a launch."""


def leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings under dotted keys; an empty mapping is a leaf."""
    if not isinstance(tree, Mapping) or not tree:
        return {prefix: tree}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= leaves(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def as_text(tree: Any) -> dict[str, str]:
    """The same with each leaf as Python spells it, for comparisons."""
    return {key: repr(value) for key, value in leaves(tree).items()}


def of_the_launch(tree: Any) -> dict[str, str]:
    """The same without what belongs to a machine: what all ranks of a launch are to be given."""
    return {key: value for key, value in as_text(tree).items() if key not in OF_A_MACHINE}
