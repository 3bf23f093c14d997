"""What all commands share: a parser that says what it does not understand in one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn, TypeVar

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from hiso_pl.cli.config_option import of_presets
from hiso_pl.errors import one_line

T = TypeVar("T")


class ConfigurationError(ValueError):
    """The command line or a configuration file cannot be understood."""


class Answered(SystemExit):
    """What was asked, for help or for a configuration, has been answered, and there is nothing to do."""


class Parser(LightningArgumentParser):
    """LightningCLI's parser, which reports what it does not understand in one line."""

    def add_argument(self, *args: Any, **options: Any) -> Any:
        """Adds an option; one that takes configurations knows presets by name."""
        return super().add_argument(*args, **of_presets(options))

    def add_class_arguments(self, theclass: type, nested_key: str | None = None, **options: Any) -> list[str]:  # type: ignore[override]
        """Adds a class's options; of Trainer's limits 1 is a batch and 1.0 all of them.

        Lightning's own types are unions that typing may hold in the order in which another package has named them.
        """
        if theclass is not Trainer:
            return super().add_class_arguments(theclass, nested_key, **options)
        limits = [f"limit_{split}_batches" for split in ("train", "val", "test", "predict")]
        added = super().add_class_arguments(theclass, nested_key, skip={*limits}, **options)
        for name in limits:
            told = "Share of the batches (float) or their number (int). Null is all of them."
            self.add_argument(f"--{nested_key}.{name}", type=int | float | None, default=None, help=told)
        return added

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
        raise ConfigurationError(as_said(message)) from ex


def add_traceback(parser: ArgumentParser) -> None:
    """Adds the option that all commands have."""
    told = "Whether an error is told with its traceback. That of an unexpected one is kept in the run's folder."
    parser.add_argument("--traceback", type=bool, default=False, help=told)


def as_said(message: object) -> str:
    """An error's message on a line that a terminal shows at a glance.

    An option that may be null is a union to the parser, which reports each member's complaint; one of them is kept.
    """
    line = one_line(message, 1 << 16)
    found = re.match(r"(.*?)Does not validate against any of the Union subtypes.*?Errors: - (.*)", line)
    if found:
        line = found[1] + re.split(r" - Expected a <class 'NoneType'>| Given value type:", found[2])[0]
    return one_line(line, 600)


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
