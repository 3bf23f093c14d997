"""What all commands share: a parser that says what it does not understand in one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn, TypeVar

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

T = TypeVar("T")


class ConfigurationError(ValueError):
    """The command line or a configuration file cannot be understood."""


class Parser(LightningArgumentParser):
    """LightningCLI's parser, which reports what it does not understand in one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises instead of printing the usage on every rank.

        Raises:
            ConfigurationError: Always.
        """
        if ex is None:
            raise ConfigurationError(one_line(message))
        raise ConfigurationError(one_line(message)) from ex


def one_line(text: object) -> str:
    """A message without line breaks, no longer than a terminal shows; of the parser's, what is wrong."""
    joined = " ".join(line.strip() for line in str(text).splitlines() if line.strip())
    # an option that may be null is a union to the parser, and it reports each member's complaint
    found = re.match(
        r"(?P<key>.*?)Does not validate against any of the Union subtypes.*?Errors: - (?P<what>.*)", joined
    )
    if found:
        what = re.split(r" - Expected a <class 'NoneType'>| Given value type:", found["what"])[0]
        joined = f"{found['key']}{what}"
    return joined if len(joined) <= 600 else joined[:597] + "..."


def parse_settings(
    settings: type[T],
    prog: str,
    description: str,
    args: Sequence[str],
    positional: str | None = None,
    flag: str | None = None,
) -> T:
    """A command line as the dataclass that says which options there are.

    Args:
        settings: The dataclass; its docstring is the help.
        prog: What the command is called.
        description: What it does.
        args: What follows the command.
        positional: The field that is given without a name, if one is.
        flag: The field that is given without a value, if one is.

    Raises:
        ConfigurationError: If it cannot be understood, or an option cannot be.
    """
    parser = Parser(prog=prog, description=description)
    if positional is not None:
        parser.add_argument(positional, type=str, help=f"The {positional}.")
    parser.add_class_arguments(settings, skip={name for name in (positional, flag) if name is not None})
    if flag is not None:
        parser.add_argument(f"--{flag}", action="store_true", help="See above.")
    config: Namespace = parser.parse_args(list(args))
    try:
        built = parser.instantiate(config)
        values: dict[str, Any] = {field.name: built[field.name] for field in fields(settings)}  # type: ignore[arg-type]
        return settings(**values)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
