"""What the keys of a study file may hold, each checked and refused in one line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from hiso_pl.nearest import did_you_mean
from hiso_pl.study.names import Key, StudyError, as_word, plain_name, refuse_own, same_folder

T = TypeVar("T")

MOST_SEED = 1 << 32
"""Seeds that Lightning takes are smaller."""
LONGEST = 100
"""Characters of a name."""


def mapping_of(at: Key, data: Any, known: Sequence[str], of: str) -> Mapping[str, Any]:
    """A mapping that holds known keys alone."""
    if not isinstance(data, dict):
        raise StudyError(at, f"{_shown(data)} must hold {of}'s keys: {', '.join(known)}")
    for key in data:
        if key not in known:
            raise StudyError((*at, str(key)), f" is no key of {of}{_meant(str(key), known)}")
        if data[key] is None and key != "metric":
            raise StudyError((*at, key), " holds nothing: leave it out, or say what")
    return data


def _meant(key: str, known: Sequence[str]) -> str:
    return did_you_mean(key, known) or f": there are {', '.join(known)}"


def by_name(at: Key, data: Any) -> dict[str, Any]:
    """A mapping of names that people give; each has a folder of its own."""
    if not isinstance(data, dict):
        raise StudyError(at, f"{_shown(data)} must hold names, and what each of them is")
    if not data:
        return {}
    found: dict[str, Any] = {}
    for given, value in data.items():
        name = str(given) if type(given) in (str, int, float) else ""
        if not (name.strip() == name and name.isprintable() and 0 < len(name) <= LONGEST):
            raise StudyError(at, f": the name {given!r} must be a line of text, of at most {LONGEST} characters")
        for other in found:
            if same_folder(plain_name(name), plain_name(other)):
                raise StudyError((*at, name), f" must have another name than {other}, whose folder would be the same")
        found[name] = value
    return found


def configurations(at: Key, data: Any) -> tuple[str, ...]:
    """Files or presets, one or a list of them."""
    names = [data] if isinstance(data, str) else data
    if not (isinstance(names, list) and names and all(isinstance(name, str) and name for name in names)):
        raise StudyError(at, f"{_shown(data)} must name files or presets, such as [quickstart]")
    return tuple(names)


def options_of(at: Key, data: Any) -> dict[str, Any]:
    """Options of ``fit`` by their dotted names; those that the study sets itself are refused."""
    if not isinstance(data, dict):
        raise StudyError(at, f"{_shown(data)} must hold options of fit, such as trainer.max_steps: 600")
    for key, value in data.items():
        if not (isinstance(key, str) and key and key.isprintable() and " " not in key and not key.startswith("-")):
            raise StudyError(at, f": {key!r} must be the name of an option of fit, such as trainer.max_steps")
        refuse_own((*at, key), key, value)
        _check_plain((*at, key), value)
    return data


def _check_plain(at: Key, value: Any) -> None:
    """Sees to it that a value is text, a number, true, false or null, or is made of them."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        _check_plain(at, item)
    if isinstance(value, float) and not math.isfinite(value):
        raise StudyError(at, f"={value} must be finite")
    if not (value is None or isinstance(value, str | bool | int | float | list | dict)):
        raise StudyError(at, f"={value} must be text, a number, true or false: put it in quotes")


def values_of(at: Key, data: Any) -> tuple[Any, ...]:
    """A list of values, each once."""
    if not (isinstance(data, list) and data):
        raise StudyError(at, f"{_shown(data)} must be a list of at least one value")
    for value in data:
        _check_plain(at, value)
    return tuple({as_word(value): value for value in data}.values())


def numbers(at: Key, data: Any, of: Callable[[Any], T], must: str, least: int = 0) -> tuple[T, ...]:
    """A list of numbers, or a single one, each once."""
    given = data if isinstance(data, list) else [data]
    if len(given) < least:
        raise StudyError(at, "=[] must hold at least one number")
    try:
        return tuple(dict.fromkeys(of(value) for value in given))
    except (TypeError, ValueError, OverflowError):
        raise StudyError(at, f"{_shown(data)} must be {must}") from None


def finite(value: Any) -> float:
    """A finite number, for :func:`numbers`."""
    number = float(value)  # also of text: YAML 1.1 takes 1e-3 for such
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError(value)
    return number


def rate(value: Any) -> float:
    """A learning rate, for :func:`numbers`."""
    number = finite(value)
    if number <= 0:
        raise ValueError(value)
    return number


def seed(value: Any) -> int:
    """A seed, for :func:`numbers`."""
    if type(value) is not int or not 0 <= value < MOST_SEED:
        raise ValueError(value)
    return value


def way_and_options(data: Any) -> dict[str, dict[str, Any]]:
    """A strategy's name and its options, which it knows itself."""
    found = {data: {}} if isinstance(data, str) else data
    if isinstance(found, dict) and len(found) == 1:
        ((name, options),) = found.items()
        if isinstance(name, str) and isinstance(options or {}, dict):
            return {name: dict(options or {})}
    raise StudyError(("rates",), f"{_shown(data)} must be a strategy's name, or one name with its options")


def _shown(data: Any) -> str:
    return f"={data!r}"[:80] if not isinstance(data, dict) else ""
