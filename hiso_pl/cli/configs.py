"""The command ``hiso-pl configs``: the configurations that come with the package."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hiso_pl import presets
from hiso_pl.cli.parser import ConfigurationError, Parser, add_traceback

DESCRIPTION = """\
Lists the configurations that come with hiso_pl. Each is given by its name, wherever a configuration can be given:
hiso-pl fit --config quickstart; several compose: --config model/opt-125m --config task/sst2 --config method/hiso.
`show NAME` prints one, `copy NAME [TO]` makes a file of it that is yours to change."""


def run(args: Sequence[str]) -> None:
    """Runs ``hiso-pl configs``, given what follows it.

    Raises:
        ConfigurationError: If the command line cannot be understood, or what it asks for cannot be.
    """
    parser = Parser(prog="hiso-pl configs", description=DESCRIPTION)
    parser.add_argument("action", nargs="?", choices=("list", "show", "copy"), default="list", help="What to do.")
    parser.add_argument("name", nargs="?", type=str, help="Which configuration.")
    parser.add_argument("to", nargs="?", type=str, help="The copy: a file, or a folder; that of its name, here.")
    add_traceback(parser)
    options = parser.parse_args(list(args))
    words = {"list": 0, "show": 1, "copy": 2}[options.action]
    if (left := [options.name, options.to][words:]) and left[0] is not None:
        raise ConfigurationError(f"{left[0]} belongs to nothing: {options.action} takes no more names")
    if options.action == "list":
        sys.stdout.write(listing())
    elif options.name is None:
        raise ConfigurationError(f"{options.action} must be followed by a name that `hiso-pl configs` lists")
    elif options.action == "show":
        sys.stdout.write(_text(options.name))
    else:
        sys.stdout.write(f"{copy(options.name, options.to)}\n")
    sys.stdout.flush()


def listing() -> str:
    """All presets, each with what it is, folder by folder."""
    lines: list[str] = []
    before = ""
    for name in presets.names():
        room = name.rpartition("/")[0]
        if room != before:
            lines += [
                "",
                *(["# studies, each for hiso-pl study NAME --root FOLDER:"] if presets.is_study(name) else []),
            ]
            before = room
        lines.append(f"{name:28}  {presets.summary(name)}")
    return "\n".join(lines) + "\n"


def copy(name: str, to: str | None) -> Path:
    """Writes a preset into a file that is not there yet, and returns its path.

    Raises:
        ConfigurationError: If there is no such preset, or the file is there or cannot be written.
    """
    text, own = _text(name), f"{presets.label(name)}.yaml"
    path = Path(own if to is None else to).expanduser()
    if path.is_dir():
        path /= own
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigurationError(f"to={path} is there already: give another name") from None
    except OSError as error:
        raise ConfigurationError(f"to={path} must lie in a folder that can be written: {error.strerror}") from error
    return path


def _text(name: str) -> str:
    try:
        return presets.preset(name, f"name={name} must be one").text
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
