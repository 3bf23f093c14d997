"""What is said of a command line or a configuration that cannot be understood: the parser's findings in words.

The parser of a class of its own, such as that of ``data.partition``, knows its options and not its own name; the one
around it knows the name. So what is found within travels as a text with marks around it, and each parser on the way
out puts its name before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from hiso_pl.errors import one_line
from hiso_pl.nearest import by_likeness, did_you_mean, nearest

TYPES = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "dict": "a mapping",
    "PositiveInt": "an integer of at least 1",
}
"""What must stand where a type is expected."""
MOST = 12
"""Choices that are told."""
MARKED = re.compile(r"⟦([^⟧]*)⟧(.*?)⟦/⟧", re.S)


class ConfigurationError(ValueError):
    """The command line or a configuration file cannot be understood."""


class Answered(SystemExit):
    """What was asked, for help or for a configuration, has been answered, and there is nothing to do."""


def marked(key: str, words: str) -> str:
    """A finding on its way out: the option, and what follows its name in a sentence."""
    return f"⟦{key}⟧{words}⟦/⟧"


def split(message: str) -> tuple[str, str] | None:
    """Option and words of what was found within, if anything was, whatever has been put around it on the way."""
    found = MARKED.search(message)
    return None if found is None else (found[1], found[2])


def wrong_value(rest: str, choices: Iterable[str] = ()) -> str | None:
    """What follows an option's name where its value is of the wrong type, read from the parser's own words."""
    found = re.search(r"Expected a (<class '([\w.]+)'>|typing\.Literal\[(.*?)\])(?:\. Got value: (.*))?$", rest, re.M)
    if found is None:
        return None
    given = re.search(r"(?:Got|Given) value: (.*)", rest)
    value = f"={one_line(given[1], 80)}" if given else ""
    if found[3] is not None:
        known = [word.strip("'\" ") for word in found[3].split(",")]
        return f"{value} must be one of {', '.join(known)}{did_you_mean(value[1:], known)}"
    kinds = dict.fromkeys(TYPES.get(kind.rpartition(".")[2], kind) for kind in re.findall(r"<class '([\w.]+)'>", rest))
    kinds.pop("NoneType", None)
    return f"{value} must be {' or '.join(kinds)}"


def wrong_class(given: str, known: Iterable[str], why: str) -> str:
    """What follows an option's name where its class cannot be: the classes that can, the nearest first.

    Args:
        given: The class as it was given.
        known: Full names of the classes that the option takes.
        why: What is wrong with it.
    """
    short = [name.rpartition(".")[2] for name in known]
    names = by_likeness(given.rpartition(".")[2], short)
    meant = nearest(given.rpartition(".")[2], short, 1)
    asked = f": did you mean {meant[0]}? There are" if meant else ": there are"
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return f"={given} {why}{asked} {', '.join(names[:MOST])}{more}; one of your own is named with its module"


def given_class(rest: str) -> str | None:
    """The class that cannot be had, by what the parser says of it."""
    for pattern in (
        r"Expected a path but (.*?) either not",
        r"Problem with given class_path '([^']*)'",
        r"Expected a dot import path string: (\S+)",
        r"Import path (\S+) does not (?:correspond|implement)",
    ):
        if found := re.search(pattern, rest):
            return found[1]
    return None


def why_not(rest: str) -> str:
    """Why a class that was named with its module cannot be had."""
    found = re.search(r"Problem with given class_path '[^']*':\s*([^\n]*)", rest)
    if found is not None:
        return f"cannot be had ({found[1]})"
    return "is of another kind" if "does not correspond to a subclass" in rest else "is no known class"


def as_said(message: object) -> str:
    """An error's message on a line that a terminal shows at a glance.

    An option that may be null is a union to the parser, which reports each member's complaint; one of them is kept.
    """
    text = str(message) or one_line(message)
    within = split(text)
    if within is not None:
        return one_line(within[0] + within[1], 600)
    line = one_line(text, 1 << 16)
    found = re.match(r"(.*?)Does not validate against any of the Union subtypes.*?Errors: - (.*)", line)
    if found:
        line = found[1] + re.split(r" - Expected a <class 'NoneType'>| Given value type:", found[2])[0]
    return one_line(line, 600)
