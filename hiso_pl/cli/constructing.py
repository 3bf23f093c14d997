"""Building what has been parsed: an error in a constructor comes out as it is, with file and line of the option.

An option that may be several things is tried as each of them, and would report the last attempt.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from jsonargparse import add_instantiator

from hiso_pl.cli.config_file import ConfigFile, place

T = TypeVar("T")

failed: list[Exception] = []
"""What constructors have raised while a configuration is built."""


def _built(class_type: type[T], *args: Any, **kwargs: Any) -> T:
    """Builds a part, and notes its error before others can hide it."""
    try:
        return class_type(*args, **kwargs)
    except Exception as error:
        if _takes(class_type, args, kwargs):  # else another part is meant, which is tried next
            failed.append(error)
        raise


def _takes(class_type: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether these are a constructor's arguments, as far as that is known."""
    try:
        inspect.signature(class_type).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:  # it tells no signature
        return True
    return True


add_instantiator(_built, object)


def placed(error: Exception, values: Mapping[str, Any], args: Sequence[str], files: Sequence[ConfigFile]) -> Exception:
    """A constructor's error, with file and line of the option that it names by its last part and its value.

    Args:
        error: The error. One that names none, or one that several may be, stays as it is.
        values: All options by their dotted names.
        args: The command line.
        files: The configuration files that it names.
    """
    said = re.match(r"(\w+)(=(\S+).*)", str(error), re.S)
    if said is None or type(error) is not ValueError:
        return error
    found = [key for key, value in values.items() if (key.rpartition(".")[2], str(value)) == (said[1], said[3])]
    where = place(found[0], said[2], args, files) if len(found) == 1 else ""
    return ValueError(where + str(error)).with_traceback(error.__traceback__) if where else error
