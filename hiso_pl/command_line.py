"""What all commands share: a parser that says what it does not understand in one line."""

from __future__ import annotations

import re
from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser


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
