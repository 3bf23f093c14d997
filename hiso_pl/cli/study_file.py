"""A study file as it is given, and what a command line puts over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from hiso_pl import presets
from hiso_pl.bounds import STUDY_BYTES
from hiso_pl.cli.config_file import LOADER, ConfigFile
from hiso_pl.cli.mistakes import ConfigurationError
from hiso_pl.nearest import did_you_mean
from hiso_pl.regular_file import read_at_most
from hiso_pl.study.file import Study, pick, study_of
from hiso_pl.study.names import StudyError, as_word


def read(given: str, quick: bool) -> tuple[Study, str]:
    """The study in a file, or in one that comes with the package, and the sentence that it begins with.

    Raises:
        ConfigurationError: If there is none, or it asks for what cannot be, with file, line and key.
    """
    try:
        found = presets.find(given, "study", presets.STUDIES)
        shipped = found.path is None or found.path == presets.folder() / f"{found.name}.yaml"
        if shipped and not presets.is_study(found.name):
            raise ValueError(f"study={given} is a configuration of fit: give it as --config {given}")
        name = given if found.name == given else found.name
        text = found.text if found.path is None else read_at_most(found.path, STUDY_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{given} is no text in UTF-8 (byte {error.start}): save it as such") from error
    except OSError as error:
        raise ConfigurationError(f"{given} cannot be read: {error.strerror}") from error
    except ValueError as error:  # there is none, or it is too long
        raise ConfigurationError(str(error)) from error
    file = ConfigFile(name, text)
    try:
        return study_of(yaml.load(text, Loader=LOADER), quick), presets.head(text)
    except StudyError as error:
        parts = [part for key in error.key for part in key.split(".")]
        line = next((line for n in range(len(parts), 0, -1) if (line := file.line_of(parts[:n])) is not None), None)
        where = name if line is None else f"{name} line {line}"
        raise ConfigurationError(f"{where}: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that there is not, a mapping as a key
        raise ConfigurationError(f"{name} is no study: {str(error).splitlines()[0]}") from error


def over(study: Study | None, given: Mapping[str, Any], fit: Sequence[str]) -> dict[str, Any]:
    """A study's data with what a command line puts over them.

    Args:
        study: The file's; None where there is none, so that methods are presets or files.
        given: Options of the command by name.
        fit: Options of ``fit``: files come after the study's, single options take the place of its own.

    Raises:
        StudyError: If there is no method or setting of a name.
        ConfigurationError: If options of ``fit`` cannot be understood.
    """
    data: dict[str, Any] = {} if study is None else study.as_data()
    for key in ("config", "metric", "by", "targets"):
        if key in given:
            data[key] = given[key]
    if "rates" in given:
        try:
            data["rates"] = yaml.safe_load(given["rates"])
        except yaml.YAMLError:
            raise StudyError(("rates",), f"={given['rates']} must be a strategy's name, or YAML") from None
    if "seeds" in given:
        data["seeds"] = [int(word) if word.isdigit() else word for word in given["seeds"]]
    if "methods" in given:
        names = given["methods"]
        data["methods"] = of_presets(names) if study is None else pick("methods", data.get("methods", {}), names)
    if "settings" in given:
        data["settings"] = pick("settings", data.get("settings", {}), given["settings"])
    for key, *values in given.get("cross", ()):
        if not values:
            raise StudyError(("cross",), f"={key} must be followed by values")
        data.setdefault("cross", {})[key] = [typed(value) for value in values]
    if "lrs" in given:
        put_rates(data, given["lrs"])
    files, options = split(fit)
    data["config"] = [*data.get("config", []), *files]
    data["options"] = {**data.get("options", {}), **options}
    return {key: value for key, value in data.items() if value not in ([], {})}


def of_presets(names: Sequence[str]) -> dict[str, Any]:
    """Methods that are presets or files, by the last words of their names.

    Raises:
        StudyError: If two have one name.
    """
    methods: dict[str, Any] = {}
    for name in names:
        method = {"config": [name]}
        if methods.setdefault(presets.label(name), method) != method:
            raise StudyError(
                ("methods",), f"={name} must have another name than {methods[presets.label(name)]['config'][0]}"
            )
    return methods


def put_rates(data: dict[str, Any], words: Sequence[str]) -> None:
    """Puts learning rates over those of a study: for the methods that are named, and for all others.

    Raises:
        StudyError: If one is no number, or there is no such method.
    """
    methods, found = data.get("methods", {}), dict[str, list[float]]()
    for word in words:
        method, _, values = word.rpartition("=")
        if method and method not in methods:
            there = did_you_mean(method, methods) or f": {', '.join(methods) or 'there are none'}"
            raise StudyError(("lrs",), f"={word} must name one of the methods{there}")
        try:
            found.setdefault(method, []).extend(float(value) for value in values.split(","))
        except ValueError:
            raise StudyError(("lrs",), f"={word} must be numbers, or METHOD= and numbers with commas") from None
    if "" in found:
        data["lrs"] = found.pop("")
        data["methods"] = {name: {k: v for k, v in method.items() if k != "lrs"} for name, method in methods.items()}
    for name, rates in found.items():
        data["methods"][name] = {**data["methods"][name], "lrs": rates}


def typed(word: str) -> Any:
    """A word as the number, truth value or null that it spells, where that is spelt so again; else the word."""
    try:
        value = yaml.safe_load(word)
    except yaml.YAMLError:
        return word
    return value if (value is None or isinstance(value, bool | int | float)) and as_word(value) == word else word


def split(fit: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Options of ``fit`` as its configuration files and its single options, those that add to a list as lists.

    Raises:
        ConfigurationError: If a word belongs to no option, or an option has no value.
    """
    files, options, words = list[str](), dict[str, Any](), list(fit)
    while words:
        word = words.pop(0)
        key, given, value = word.lstrip("-").partition("=")
        if not word.startswith("-"):
            raise ConfigurationError(f"{word!r} belongs to no option of fit: did you mean --config {word}?")
        if not given:
            if not words:
                raise ConfigurationError(f"{word} needs a value")
            value = words.pop(0)
        if key in ("config", "c"):
            files.append(value)
        elif key.endswith("+"):
            options.setdefault(key, []).append(typed(value))
        else:
            options[key] = typed(value)
    return files, options
