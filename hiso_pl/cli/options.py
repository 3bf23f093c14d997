"""The options of a command under the names that a command line gives them, those of the classes in them included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jsonargparse import ArgumentParser

from hiso_pl.cli import parser_privates

DEPTH = 3
"""How deep classes in classes are looked into."""


def own_classes(action: Any) -> list[Any]:
    """The package's classes that an option takes."""
    return [
        parser_privates.class_named(path)
        for path in parser_privates.known_classes(action)
        if path.startswith("hiso_pl.") and not path.startswith("hiso_pl.callbacks.")
    ]


def every_option(parser: ArgumentParser, prefix: str = "", depth: int = DEPTH) -> Iterator[tuple[str, Any]]:
    """Name and action of each option of a parser, followed by those of the package's classes that it takes."""
    for action in parser._actions:
        if not action.option_strings or action.dest in ("help", "version") or action.dest.endswith(".help"):
            continue
        name = prefix + action.dest
        yield name, action
        for theclass in own_classes(action) if depth else ():
            yield from every_option(parser_privates.class_parser(parser, theclass, action), f"{name}.", depth - 1)
