"""A configuration as its leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
