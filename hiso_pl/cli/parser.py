"""What all commands share: a parser that says what it does not understand in one line, and where that stands."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn, TypeVar

import yaml
from jsonargparse import ArgumentParser, Namespace

from hiso_pl.cli import overrides, parser_privates
from hiso_pl.cli.config_file import ConfigFile, place
from hiso_pl.cli.config_option import of_presets, with_presets
from hiso_pl.cli.constructing import failed, placed
from hiso_pl.cli.mistakes import Answered as Answered
from hiso_pl.cli.mistakes import ConfigurationError as ConfigurationError
from hiso_pl.cli.mistakes import as_said, given_class, marked, split, why_not, wrong_class, wrong_value
from hiso_pl.cli.options import DEPTH, every_option
from hiso_pl.errors import one_line
from hiso_pl.nearest import did_you_mean

T = TypeVar("T")

RENAMED = {"model.optimizer": "model.method", "model.optimizer_class": "model.method"}
"""Options of earlier versions, and those that have taken their place."""


class Parser(ArgumentParser):
    """jsonargparse's parser, which reports what it does not understand in one line.

    Attributes:
        files: The configuration files of the command line, in their order.
        of_class: The class whose options these are, where it is the parser of one.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})
        self.args: list[str] = []
        self.files: list[ConfigFile] = []
        self.of_class: type | None = None

    def add_argument(self, *args: Any, **options: Any) -> Any:
        """Adds an option; one that takes configurations knows presets by name."""
        return super().add_argument(*args, **of_presets(options))

    def add_class_arguments(self, theclass: type, *args: Any, **options: Any) -> list[str]:  # type: ignore[override]
        """Adds a class's options, and notes whose they are."""
        self.of_class = theclass
        return super().add_class_arguments(theclass, *args, **options)

    def parse_args(self, *args: Any, **options: Any) -> Namespace:  # type: ignore[override]
        """Parses a command line; of one, all that is left out for another class's sake is told."""
        if self._outermost:
            overrides.begin()
            del self.files[:]
        return super().parse_args(*args, **options)

    def parse_path(self, path: Any, *args: Any, **options: Any) -> Namespace:  # type: ignore[override]
        """Parses a configuration file, once it is seen to be one."""
        if os.path.exists(path) and (os.path.isfile(path) or os.path.isdir(path)):  # a pipe can be read once only
            self.files.append(ConfigFile(os.fspath(path)))
        return super().parse_path(path, *args, **options)

    def parse_string(self, *args: Any, **options: Any) -> Namespace:  # type: ignore[override]
        """Parses a configuration; what it builds upon, by its own option ``config``, may be a preset."""
        name = next((name for name in ("content", "cfg_str") if name in options), None)  # as versions call it
        text = args[0] if name is None else options.pop(name)
        try:
            text = with_presets(text, self._actions)
        except ValueError as error:
            lines = [(file.path, file.line_of(["config"])) for file in self.files]
            where = next((f"{path} line {line}: " for path, line in reversed(lines) if line is not None), "")
            raise ConfigurationError(f"{where}{error}") from error
        return super().parse_string(text, *args[1:], **options)

    def validate(self, namespace: Namespace, *args: Any, **options: Any) -> None:  # type: ignore[override]
        """Checks what has been parsed; a group of options must be one."""
        for action in filter(parser_privates.is_group, self._actions):
            value = namespace.get(action.dest)
            if not isinstance(value, Namespace | dict | type(None)):
                self.error(marked(action.dest, f"={value} {self._must_hold(action.dest)}"))
        try:
            super().validate(namespace, *args, **options)
        except (TypeError, KeyError) as error:
            self.error(str(error.args[0] if error.args else error), error)

    def instantiate(self, *args: Any, **options: Any) -> Namespace:  # type: ignore[override]
        """Builds what has been parsed; an error in a constructor comes out as it is."""
        if self._outermost:
            del failed[:]
        try:
            return super().instantiate(*args, **options)
        except Exception:
            if failed:
                raise self._placed(failed[0], args[0]) from None
            raise

    def _placed(self, error: Exception, config: Namespace) -> Exception:
        """A constructor's error, said with the place of the option that it names."""
        parser, commands = self, self._subcommands_action
        if commands is not None and (command := config.get("subcommand")) is not None:
            parser, config = commands.choices[command], config[command]
        return placed(error, dict(config.items()), parser.args, parser.files)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Ends the program after an answer, told from whatever else may end it with status 0.

        Raises:
            Answered: Always.
        """
        raise Answered(status)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises instead of printing the usage on every rank.

        Raises:
            ConfigurationError: Always.
        """
        inner = getattr(ex, "subcommand_parser", None)
        if inner is not None and inner is not self:  # of a command, which knows its own options and files
            inner.error(message)
        key, words = self._found(message)
        if not self._outermost:
            raise ConfigurationError(marked(key, words)) from ex
        raise ConfigurationError(as_said(place(key, words, self.args, self.files) + key + words)) from ex

    @property
    def _outermost(self) -> bool:
        """Whether this is a command's parser, and not one of a class that an option names."""
        return bool(self.exit_on_error)

    # What was found

    def _found(self, message: str) -> tuple[str, str]:
        """The option that is wrong, and what follows its name in a sentence."""
        outer = re.match(r'Parser key "([^"]*)"(?: element \d+)?:\s*(.*)', message, re.S)
        within = split(message)
        if within is not None:
            key, words = within
            return (f"{outer[1]}.{key}" if outer is not None and outer[1] else key), words
        if outer is not None:
            return outer[1], self._of_value(outer[1], outer[2])
        for pattern in (
            r"(?:Group '(?P<group>[^']*)'|Subcommand '[^']*') does not accept option '(?P<key>[^']*)'",
            r"Option '(?P<key>[^']*)' is not accepted",
        ):
            if found := re.search(pattern, message):
                group = found.groupdict().get("group")
                key = f"{group}.{found['key']}" if group else found["key"]
                return key, self._unknown(key)
        if found := re.match(r"unrecognized arguments: (\S+)", message):
            word = found[1].partition("=")[0]
            if not word.startswith("-"):
                what = f"did you mean --config {word}?" if os.path.isfile(word) else "give --OPTION VALUE"
                return f"{found[1]!r}", f" belongs to no option: {what}"
            return word, self._unknown(word.lstrip("-"), "--")
        if found := re.match(r"the following arguments are required: (.*)", message):
            names = re.sub(rf"\b({'|'.join(self._commands())})\.", "", found[1]) if self._commands() else found[1]
            return names, " must be given" + (", as by --config FILE_OR_NAME" if self._commands() else "")
        if found := re.match(r"argument ([^:]*?)(?:/(--\S+))?: expected (?:one|at least one) argument", message):
            return found[2] or found[1], " needs a value"
        return "", as_said(message)

    def _unknown(self, key: str, dashes: str = "") -> str:
        """What is said of an option that there is not."""
        plain = key.replace(".init_args.", ".")
        for old, new in RENAMED.items():
            if plain == old or plain.startswith(f"{old}."):
                return f" is no option any more: {new} has taken its place, with lr and the others in it"
        of = "" if self.of_class is None or self._outermost else f" of {self.of_class.__name__}"
        known = [name for name, _ in every_option(self, depth=DEPTH if self._outermost else 0)]
        return f" is no option{of}{did_you_mean(plain, known, dashes)}"

    def _of_value(self, key: str, rest: str) -> str:
        """What is said of an option's value."""
        if "NestedArg" in rest:
            return ": options but no class yet: name the class, or the --config that does, before them"
        known = parser_privates.known_classes(parser_privates.option(self, key))
        given = given_class(rest)
        try:
            if given is not None and os.path.isfile(given):
                ConfigFile(given)
            if given is not None and given[:1] in ("[", "{"):
                yaml.safe_load(given)
        except ConfigurationError as error:
            return f": {error}"
        except yaml.YAMLError:
            return f"={one_line(given, 80)} is no complete list or mapping in YAML or JSON"
        if given is not None and known:
            return wrong_class(
                given, known, "must be a class" if given[:1] in "[{" or given == "null" else why_not(rest)
            )
        if known and re.search(r"Got value: None", rest) and "Not a valid subclass" in rest:
            return wrong_class("null", known, "must be a class")
        if found := re.match(r"Unable to load config '([^']*)'", rest):
            return f"={found[1]} {self._must_hold(key)}"
        return wrong_value(rest) or f": {as_said(rest)}"

    def _commands(self) -> list[str]:
        return [] if self._subcommands_action is None else list(self._subcommands_action.choices)

    def _must_hold(self, group: str) -> str:
        known = (name for name, _ in every_option(self, depth=0) if name.startswith(f"{group}."))
        return f"must hold options, such as {next(known, group)}, or name a file that does"


def add_traceback(parser: ArgumentParser) -> None:
    """Adds the option that all commands have."""
    told = "Whether an error is told with its traceback. That of an unexpected one is kept in the run's folder."
    parser.add_argument("--traceback", type=bool, default=False, help=told)


def parse_settings(
    settings: type[T],
    prog: str,
    description: str,
    args: Sequence[str],
    positional: str | None = None,
    flag: str | None = None,
) -> T:
    """A command line as the dataclass that says which options there are; its docstring is the help.

    One field may be ``positional``, that is given without a name, and one a ``flag``, that is given without a value.

    Raises:
        ConfigurationError: If it cannot be understood, or an option cannot be.
    """
    parser = Parser(prog=prog, description=description)
    if positional is not None:
        parser.add_argument(positional, type=str, help=f"The {positional}.")
    parser.add_class_arguments(settings, skip={name for name in (positional, flag) if name is not None})
    if flag is not None:
        parser.add_argument(f"--{flag}", action="store_true", help="See above.")
    add_traceback(parser)
    config: Namespace = parser.parse_args(list(args))
    try:
        built = parser.instantiate(config)
        values: dict[str, Any] = {field.name: built[field.name] for field in fields(settings)}  # type: ignore[arg-type]
        return settings(**values)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
