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

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from hiso_pl.nearest import did_you_mean
from hiso_pl.study.names import Key, StudyError, plain_option
from hiso_pl.study.values import (
    MOST_SEED,
    by_name,
    configurations,
    finite,
    mapping_of,
    numbers,
    options_of,
    rate,
    seed,
    values_of,
    way_and_options,
)

T = TypeVar("T")

KEYS = ("config", "options", "methods", "settings", "cross", "lrs", "seeds", "rates", "metric", "by", "targets")
OF_A_METHOD = ("config", "options", "lrs")
BY = ("best", "last", "rounds", "loss")


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
    given = dict(mapping_of((), data, (*KEYS, "quick"), "a study"))
    over = mapping_of(("quick",), given.pop("quick", {}), KEYS, "a study")
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
    named = by_name(("methods",), take.get("methods", {}))
    methods = {name: _method(("methods", name), method) for name, method in named.items()}
    config = configurations(("config",), take["config"]) if "config" in take else ()
    if not config:
        if not methods:
            raise StudyError(("config",), " must name a configuration, as fit --config takes it: config: [quickstart]")
        if missing := [name for name, method in methods.items() if not method.config]:
            raise StudyError(("methods", missing[0]), " has no configuration: give it config, or the study")
    settings = {
        name: options_of(("settings", name), options)
        for name, options in by_name(("settings",), take.get("settings", {})).items()
    }
    cross = options_of(("cross",), take.get("cross", {}))
    _refuse_twice(methods, settings, cross)
    by, targets = take.get("by", "best"), numbers(("targets",), take.get("targets", []), finite, "finite numbers")
    if by not in BY:
        raise StudyError(("by",), f"={by} must be one of {', '.join(BY)}")
    if by == "rounds" and not targets:
        raise StudyError(("by",), "=rounds needs targets, such as targets: [0.8]")
    metric = take.get("metric")
    if metric is not None and not (isinstance(metric, str) and metric.startswith("val/")):
        raise StudyError(("metric",), f"={metric} must be a metric of validation, such as val/accuracy")
    return Study(
        config,
        options_of(("options",), take.get("options", {})),
        methods,
        settings,
        {key: values_of(("cross", key), values) for key, values in cross.items()},
        numbers(("lrs",), take["lrs"], rate, "positive and finite", least=1) if "lrs" in take else (),
        numbers(("seeds",), take.get("seeds", [1]), seed, f"integers from 0, below {MOST_SEED}", least=1),
        way_and_options(take.get("rates", "grid")),
        metric,
        by,
        targets,
    )


def _method(at: Key, data: Any) -> Method:
    given = mapping_of(at, data, OF_A_METHOD, "a method")
    lrs = numbers((*at, "lrs"), given["lrs"], rate, "positive and finite", least=1) if "lrs" in given else ()
    config = configurations((*at, "config"), given["config"]) if "config" in given else ()
    return Method(config, options_of((*at, "options"), given.get("options", {})), lrs)


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


def _listed(value: Any) -> Any:
    """The same with lists for tuples."""
    if isinstance(value, Mapping):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value
