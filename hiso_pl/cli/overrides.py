"""What becomes of a class's options when another class takes its place, on the command line or in a later file.

jsonargparse hands on every option that the new class happens to have too, so that a partition by IID would keep the
``minimum`` that was meant for Dirichlet's. Here options of the one do not pass to the other, but for those that both
inherit from the very same constructor, where they mean the same: the ``clients`` of any data, the ``nu`` of an average.
How the classes are named does not matter.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any

from hiso_pl.cli import parser_privates
from hiso_pl.errors import one_line

log = logging.getLogger(__name__)

_told: set[str] = set()


def begin() -> None:
    """Another command line: what is left out is told anew."""
    _told.clear()


def leave_behind(parser_or_action: Any, before: Any, after: Any) -> None:
    """Takes from the former value of an option what does not pass to the class that is given now."""
    options = before["init_args"] if before and "init_args" in before else None
    if options is not None and parser_privates.is_options(options):
        former, given = (
            parser_privates.class_named(value["class_path"], parser_or_action) for value in (before, after)
        )
        if former is given and former is not None:
            return
        if former is not None and given is not None:
            left = {key: options.pop(key) for key in list(vars(options)) if not inherited(key, former, given)}
            _tell(former, given, left)
    parser_privates.original_overriding()(parser_or_action, before, after)


def inherited(name: str, *classes: Any) -> bool:
    """Whether classes have an option from one constructor that none of them has replaced."""
    found = {_declaring(theclass, name) for theclass in classes}
    return len(found) == 1 and None not in found


def _declaring(theclass: Any, name: str) -> type | None:
    """The class whose constructor is the first to have an option."""
    for base in theclass.__mro__ if inspect.isclass(theclass) else ():
        if (
            "__init__" in vars(base)
            and base is not object
            and name in inspect.signature(vars(base)["__init__"]).parameters
        ):
            return base  # type: ignore[no-any-return]
    return None


def _tell(former: Any, given: Any, left: dict[str, Any]) -> None:
    """Says, once, what had been set and is left out."""
    said = [
        f"{key}={one_line(getattr(value, 'class_path', value), 60)}"
        for key, value in left.items()
        if _plain(value) != _plain(parser_privates.default_of(former, key))
    ]
    line = f"{given.__name__} takes the place of {former.__name__}; left out, as given for that: {', '.join(said)}."
    if said and line not in _told:
        _told.add(line)
        log.warning("%s", line)


def _plain(value: Any) -> Any:
    return getattr(value, "class_path", value.get("class_path", value) if isinstance(value, dict) else value)


parser_privates.replace_overriding(leave_behind)
