"""What depends on private names of jsonargparse, in one place; a test sees to it that they are there."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_args, get_origin

from jsonargparse import ArgumentParser, Namespace, _typehints
from jsonargparse._actions import _ActionConfigLoad
from jsonargparse._common import parser_context
from jsonargparse._subcommands import find_action
from jsonargparse._util import get_import_path, import_object

Override = Callable[[Any, Any, Any], None]


def option(parser: ArgumentParser, name: str) -> Any:
    """The action of an option, or None."""
    return find_action(parser, name)


def is_group(action: Any) -> bool:
    """Whether an action stands for a group of options, which a file may hold."""
    return isinstance(action, _ActionConfigLoad)


def known_classes(action: Any) -> list[str]:
    """Full names of the classes that an option takes, as far as they have been imported; not that of all of them."""
    if not hasattr(action, "_typehint") or not kinds(action):
        return []
    found = _typehints.get_all_subclass_paths(action._typehint)
    return [path for path in found if class_named(path) not in kinds(action)] or found


def kinds(action: Any) -> tuple[type, ...]:
    """The classes by which an option's type is told; of a callable that which it returns."""
    return tuple(_classes_in(action._typehint))


def _classes_in(hint: Any) -> Iterator[type]:
    if inspect.isclass(hint) and get_origin(hint) is None:
        if hint.__module__ not in ("builtins", "typing"):
            yield hint
        return
    members = get_args(hint)
    for member in members[-1:] if get_origin(hint) is Callable else members:
        yield from _classes_in(member)


def words(action: Any) -> list[str]:
    """The words that an option can be: those of a Literal, true and false."""
    kind = getattr(action, "_typehint", None)
    found: list[str] = []
    for member in (kind, *get_args(kind)):
        found += ["true", "false"] if member is bool else [str(w) for w in get_args(member) if isinstance(w, str)]
    return found


def path_of(theclass: Any) -> str:
    """The name under which a configuration has a class."""
    return str(get_import_path(theclass))


def class_parser(parser: ArgumentParser, theclass: Any, action: Any) -> ArgumentParser:
    """The parser of a class's own options, as an option that names the class has it; what it is called with is none."""
    with parser_context(parent_parser=parser):
        skipped = {"skip": {count}} if (count := _called_with(action._typehint)) else {}
        return _typehints.ActionTypeHint.get_class_parser(theclass, skipped)


def _called_with(hint: Any) -> int:
    """How many arguments a callable is given, which a configuration cannot give."""
    if get_origin(hint) is Callable:
        return len(get_args(hint)[0])
    return max(map(_called_with, get_args(hint)), default=0)


def class_named(path: Any, action: Any = None) -> Any:
    """The class of a full name, or of a short one where the option is known; None if there is none."""
    try:
        if "." not in path and hasattr(action, "_typehint"):
            path = _typehints.resolve_class_path_by_name(kinds(action), path)  # type: ignore[arg-type]
        return import_object(path)
    except (ImportError, AttributeError, TypeError, ValueError):
        return None


def default_of(theclass: Any, name: str) -> Any:
    """The default of a class's option, in the form in which a configuration has it."""
    found = find_action(_typehints.ActionTypeHint.get_class_parser(theclass), name)
    return None if found is None else found.default


def is_options(value: Any) -> bool:
    """Whether a value is a class's options, as a configuration has them."""
    return isinstance(value, Namespace)


_overriding: Override = _typehints.discard_init_args_on_class_path_change


def original_overriding() -> Override:
    """What hands a class's options on to the class that takes its place: parser or option, former value, new value."""
    return _overriding


def replace_overriding(replacing: Override) -> None:
    """Puts a function in the place of that."""
    _typehints.discard_init_args_on_class_path_change = replacing
