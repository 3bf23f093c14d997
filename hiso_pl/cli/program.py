"""The program: which command is called, what it says, and its exit status."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

import hiso_pl
from hiso_pl.cli import commands, edge
from hiso_pl.cli.mistakes import ConfigurationError
from hiso_pl.cli.voice import quiet
from hiso_pl.ranks.last_words import last_words
from hiso_pl.run import lock


def _imported(name: str) -> ModuleType:
    """Imports a command's module without a look for garbage.

    Imports leave a million objects and next to no garbage: to look through them again and again is a fifth of what a
    start takes, and it goes on in the run unless they are passed over from then on.
    """
    if name in sys.modules:
        return sys.modules[name]
    gc.collect()  # garbage from before would be kept for ever
    enabled = gc.isenabled()
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def _call(given: Sequence[str]) -> object:
    """Calls the command that a command line begins with, whose module is imported for it, and gives what that gives."""
    if not given or given[0] in ("-h", "--help", "help"):
        sys.stdout.write(commands.overview())
    elif given[0] == "--version":
        sys.stdout.write(f"hiso-pl {hiso_pl.__version__}\n")
    elif given[0] in commands.COMMANDS:
        command = commands.COMMANDS[given[0]]
        module = _imported(command.module)
        quiet()  # now that what it imports has set up loggers of its own
        return module.run(list(given if command.module == commands.RUN else given[1:]))
    else:
        raise ConfigurationError(commands.unknown(given[0]))
    return None


def main(args: list[str] | None = None) -> int:
    """Runs the program, by a command line or that of the process.

    Returns:
        The exit status: 0 after a run or a clean stop, 1 after an error, 2 for a command line that cannot be, 130 after
        an interrupt that found no round to wait for.
    """
    given = sys.argv[1:] if args is None else args
    with last_words(), lock.none_left():
        return edge.status_of(lambda: _call(given), given)
