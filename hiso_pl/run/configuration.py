"""A configuration as its leaves."""

from __future__ import annotations

import inspect
import sys
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


def default_of(key: str, options: Mapping[str, str]) -> str | None:
    """How the default of a class's option is spelt: what a configuration meant that is older than the option.

    Args:
        key: The option, as :func:`as_text` names it.
        options: The configuration that names the class, by :func:`as_text`; nothing is imported for it.

    Returns:
        None if the option is of no class that is known here, or has no default.
    """
    owner, _, name = key.rpartition(".init_args.")
    module, _, kind = options.get(f"{owner}.class_path", "").strip("'").rpartition(".")
    found = getattr(sys.modules.get(module), kind, None)
    for base in inspect.getmro(found) if inspect.isclass(found) else ():  # options may be handed on as **base
        parameter = inspect.signature(vars(base).get("__init__", object)).parameters.get(name)
        if parameter is not None:
            return None if parameter.default is inspect.Parameter.empty else repr(parameter.default)
    return None


def of_the_launch(tree: Any) -> dict[str, str]:
    """The same without what belongs to a machine: what all ranks of a launch are to be given."""
    return {key: value for key, value in as_text(tree).items() if key not in OF_A_MACHINE}
