"""What all commands share: a parser that says what it does not understand in one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn, TypeVar

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.cli import LightningArgumentParser

T = TypeVar("T")


class ConfigurationError(ValueError):
    """The command line or a configuration file cannot be understood."""


class Answered(SystemExit):
    """What was asked, for help or for a configuration, has been answered, and there is nothing to do."""


class Parser(LightningArgumentParser):
    """LightningCLI's parser, which reports what it does not understand in one line."""

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
        raise ConfigurationError(message) from ex


def add_traceback(parser: ArgumentParser) -> None:
    """Adds the option that all commands have."""
    told = "Whether an error is told with its traceback. That of an unexpected one is kept in the run's folder."
    parser.add_argument("--traceback", type=bool, default=False, help=told)


def without_union(message: str) -> str:
    """What is wrong with an option that may be null: a union to the parser, which reports each member's complaint."""
    union = r"(?P<key>.*?)Does not validate against any of the Union subtypes.*?Errors:\s+- (?P<what>.*)"
    found = re.match(union, message, re.DOTALL)
    if not found:
        return message
    return found["key"] + re.split(r"\s- Expected a <class 'NoneType'>|\sGiven value type:", found["what"])[0]


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
