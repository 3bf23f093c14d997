"""The study file: what a study asks for as plain data, checked key by key.

config: [quickstart]              # files or names that fit --config takes, in order
options: {KEY: VALUE}             # options of fit that all runs have
methods:                          # by the name that tables use; without, the configuration is the one method
  NAME: {config: ..., options: {KEY: VALUE}, lrs: [...]}
settings: {NAME: {KEY: VALUE}}    # each method runs under each of these,
cross: {KEY: [VALUE, ...]}        # and under every combination of these
lrs: [...]                        # of methods without their own; without either, the configuration's own
seeds: [1]
rates: grid                       # how a rate is found: a strategy's name, or {NAME: {OPTION: VALUE}}
metric: null                      # what is compared; null: the first usual one that there is
by: best                          # what of it chooses a rate: best, last, rounds or loss
targets: []                       # values to reach; the first one chooses where by is rounds
quick: {...}                      # these keys again, put over the others by --quick
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from hiso_pl.nearest import did_you_mean
from hiso_pl.study.names import Key, StudyError, as_word, plain_name, plain_option, refuse_own, same_folder

T = TypeVar("T")

KEYS = ("config", "options", "methods", "settings", "cross", "lrs", "seeds", "rates", "metric", "by", "targets")
OF_A_METHOD = ("config", "options", "lrs")
BY = ("best", "last", "rounds", "loss")
MOST_SEED = 1 << 32
"""Seeds that Lightning takes are smaller."""
LONGEST = 100
"""Characters of a name."""


@dataclass(frozen=True)
class Method:
    """What a method puts over the study's configuration, and its learning rates if it has its own."""

    config: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    lrs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Study:
    """A study, as its file tells it; the module says what each field is."""

    config: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    methods: Mapping[str, Method] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cross: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    lrs: tuple[float, ...] = ()
    seeds: tuple[int, ...] = (1,)
    rates: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"grid": {}})
    metric: str | None = None
    by: str = "best"
    targets: tuple[float, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """The study as plain data, of which :func:`study_of` makes it again."""
        data: dict[str, Any] = _listed({key: value for key, value in asdict(self).items() if value not in ({}, ())})
        for method in data.get("methods", {}).values():
            for key in [key for key, value in method.items() if not value]:
                del method[key]
        return data


def study_of(data: Any, quick: bool = False) -> Study:
    """The study that plain data ask for.

    Args:
        data: What a study file holds.
        quick: Whether its ``quick`` is put over it; that it can be is seen to in any case.

    Raises:
        StudyError: If it cannot be, with the key and what would be right.
    """
    given = dict(_mapping((), data, (*KEYS, "quick"), "a study"))
    over = _mapping(("quick",), given.pop("quick", {}), KEYS, "a study")
    study = _study(given)
    try:
        short = _study(_over(given, over))
    except StudyError as error:
        raise StudyError(("quick", *error.key), error.words) from None
    return short if quick else study


def pick(key: str, named: Mapping[str, T], names: Sequence[str]) -> dict[str, T]:
    """Some of a study's methods or settings, in its own order.

    Raises:
        StudyError: If it has none of a name.
    """
    for name in names:
        if name not in named:
            meant = did_you_mean(name, named) or f": there are {', '.join(named) or 'none'}"
            raise StudyError((key,), f"={name} is none of the study's{meant}")
    return {name: value for name, value in named.items() if name in names}


def _over(given: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A study's data with those of its ``quick`` over them: lists of names pick, mappings are merged name by name."""
    result = dict(given)
    for key, value in over.items():
        named = given.get(key) or {}
        if key in ("methods", "settings") and isinstance(value, list):
            result[key] = pick(key, named, [str(name) for name in value])
        elif key == "options" and isinstance(value, dict):
            result[key] = {**named, **value}
        elif key in ("methods", "settings") and isinstance(value, dict):
            pick(key, named, [*value])
            result[key] = {**named, **{name: _merged(named[name], more) for name, more in value.items()}}
        else:
            result[key] = value
    return result


def _merged(given: Any, more: Any) -> Any:
    """A method or setting with more over it, its options one by one."""
    if not (isinstance(given, dict) and isinstance(more, dict)):
        return more
    options = {"options": _merged(given["options"], more["options"])} if {"options"} <= {*given} & {*more} else {}
    return {**given, **more, **options}


def _study(take: Mapping[str, Any]) -> Study:
    """A study of data whose keys are known."""
    named = _named(("methods",), take.get("methods", {}))
    methods = {name: _method(("methods", name), method) for name, method in named.items()}
    config = _config(("config",), take["config"]) if "config" in take else ()
    if not config:
        if not methods:
            raise StudyError(("config",), " must name a configuration, as fit --config takes it: config: [quickstart]")
        if missing := [name for name, method in methods.items() if not method.config]:
            raise StudyError(("methods", missing[0]), " has no configuration: give it config, or the study")
    settings = {
        name: _options(("settings", name), options)
        for name, options in _named(("settings",), take.get("settings", {})).items()
    }
    cross = _options(("cross",), take.get("cross", {}))
    _refuse_twice(methods, settings, cross)
    by, targets = take.get("by", "best"), _numbers(("targets",), take.get("targets", []), _finite, "finite numbers")
    if by not in BY:
        raise StudyError(("by",), f"={by} must be one of {', '.join(BY)}")
    if by == "rounds" and not targets:
        raise StudyError(("by",), "=rounds needs targets, such as targets: [0.8]")
    metric = take.get("metric")
    if metric is not None and not (isinstance(metric, str) and metric.startswith("val/")):
        raise StudyError(("metric",), f"={metric} must be a metric of validation, such as val/accuracy")
    return Study(
        config,
        _options(("options",), take.get("options", {})),
        methods,
        settings,
        {key: _values(("cross", key), values) for key, values in cross.items()},
        _numbers(("lrs",), take["lrs"], _rate, "positive and finite", least=1) if "lrs" in take else (),
        _numbers(("seeds",), take.get("seeds", [1]), _seed, f"integers from 0, below {MOST_SEED}", least=1),
        _rates(take.get("rates", "grid")),
        metric,
        by,
        targets,
    )


def _method(at: Key, data: Any) -> Method:
    given = _mapping(at, data, OF_A_METHOD, "a method")
    lrs = _numbers((*at, "lrs"), given["lrs"], _rate, "positive and finite", least=1) if "lrs" in given else ()
    config = _config((*at, "config"), given["config"]) if "config" in given else ()
    return Method(config, _options((*at, "options"), given.get("options", {})), lrs)


def _mapping(at: Key, data: Any, known: Sequence[str], of: str) -> Mapping[str, Any]:
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


def _named(at: Key, data: Any) -> dict[str, Any]:
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


def _config(at: Key, data: Any) -> tuple[str, ...]:
    names = [data] if isinstance(data, str) else data
    if not (isinstance(names, list) and names and all(isinstance(name, str) and name for name in names)):
        raise StudyError(at, f"{_shown(data)} must name files or presets, such as [quickstart]")
    return tuple(names)


def _options(at: Key, data: Any) -> dict[str, Any]:
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


def _refuse_twice(
    methods: Mapping[str, Method], settings: Mapping[str, Mapping[str, Any]], cross: Mapping[str, Any]
) -> None:
    """Refuses an option that a method or a setting would be given twice, of which the first would be ignored."""
    sources: list[tuple[Key, Mapping[str, Any]]] = [
        (("methods", name, "options"), method.options) for name, method in methods.items()
    ]
    for at, mine in sources:
        for name, options in settings.items():
            if key := next((key for key in mine if plain_option(key) in map(plain_option, options)), None):
                raise StudyError((*at, key), f" is set by settings.{name} as well: leave one out")
    for at, mine in [*sources, *((("settings", name), options) for name, options in settings.items())]:
        if key := next((key for key in mine if plain_option(key) in map(plain_option, cross)), None):
            raise StudyError((*at, key), " is crossed as well: leave one out")


def _values(at: Key, data: Any) -> tuple[Any, ...]:
    if not (isinstance(data, list) and data):
        raise StudyError(at, f"{_shown(data)} must be a list of at least one value")
    for value in data:
        _check_plain(at, value)
    return tuple({as_word(value): value for value in data}.values())


def _numbers(at: Key, data: Any, of: Callable[[Any], T], must: str, least: int = 0) -> tuple[T, ...]:
    """A list of numbers, or a single one, each once."""
    given = data if isinstance(data, list) else [data]
    if len(given) < least:
        raise StudyError(at, "=[] must hold at least one number")
    try:
        return tuple(dict.fromkeys(of(value) for value in given))
    except (TypeError, ValueError, OverflowError):
        raise StudyError(at, f"{_shown(data)} must be {must}") from None


def _finite(value: Any) -> float:
    number = float(value)  # also of text: YAML 1.1 takes 1e-3 for such
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError(value)
    return number


def _rate(value: Any) -> float:
    number = _finite(value)
    if number <= 0:
        raise ValueError(value)
    return number


def _seed(value: Any) -> int:
    if type(value) is not int or not 0 <= value < MOST_SEED:
        raise ValueError(value)
    return value


def _rates(data: Any) -> dict[str, dict[str, Any]]:
    """A strategy's name and its options, which it knows itself."""
    found = {data: {}} if isinstance(data, str) else data
    if isinstance(found, dict) and len(found) == 1:
        ((name, options),) = found.items()
        if isinstance(name, str) and isinstance(options or {}, dict):
            return {name: dict(options or {})}
    raise StudyError(("rates",), f"{_shown(data)} must be a strategy's name, or one name with its options")


def _shown(data: Any) -> str:
    return f"={data!r}"[:80] if not isinstance(data, dict) else ""


def _listed(value: Any) -> Any:
    """The same with lists for tuples."""
    if isinstance(value, Mapping):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value
