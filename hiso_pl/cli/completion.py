"""The command ``hiso-pl completion``: a script that completes commands, options and choices in a shell.

Its words are written into it, so that it answers at once: to ask the program itself would take seconds at every key.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, get_args

from hiso_pl.cli.commands import COMMANDS, RUN
from hiso_pl.cli.mistakes import Answered
from hiso_pl.cli.parser import parse_settings

Shell = Literal["bash", "zsh"]

MANY = 25
"""Classes that are too many to be told."""
HOW = {
    "bash": "# Load it in ~/.bashrc: source FILE, after `hiso-pl completion bash > FILE`.",
    "zsh": "# Load it in ~/.zshrc behind compinit: source FILE, after `hiso-pl completion zsh > FILE`.",
}
BASH = """\
_hiso_pl() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then words="{commands}"; else case "$before" in
{values}
  *) case "$word" in -*) case "${{COMP_WORDS[1]}}" in
{options}
  esac;; esac;; esac; fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _hiso_pl hiso-pl
"""
ZSH = """\
_hiso_pl() {{
  local -a told
  told=({told})
  if (( CURRENT == 2 )); then _describe command told; return; fi
  case "$words[CURRENT-1]" in
{values}
  *) case "$PREFIX" in -*) case "$words[2]" in
{options}
  esac;; *) _files;; esac;; esac
}}
compdef _hiso_pl hiso-pl
"""


@dataclass(frozen=True)
class CompletionSettings:
    """One script.

    Args:
        shell: The shell.

    Raises:
        ValueError: If there is none for it.
    """

    shell: Shell

    def __post_init__(self) -> None:
        """Checks the shell."""
        if self.shell not in get_args(Shell):
            raise ValueError(f"shell={self.shell!r} must be one of {', '.join(get_args(Shell))}")


def run(args: Sequence[str]) -> None:
    """Runs ``hiso-pl completion``, given what follows it: prints the script.

    Raises:
        ConfigurationError: If the command line cannot be understood.
    """
    about = "Prints a script that completes commands, options and their choices; save it, and load it in your shell."
    settings = parse_settings(CompletionSettings, "hiso-pl completion", about, args, positional="shell")
    options, values = _words()
    sys.stdout.write(f"{HOW[settings.shell]}\n{script(settings.shell, options, values)}")


def script(shell: Shell, options: Mapping[str, Iterable[str]], values: Mapping[str, Iterable[str]]) -> str:
    """The script of a shell.

    Args:
        shell: The shell.
        options: Options by command, or by several commands with ``|`` between.
        values: Choices by option.
    """
    choices: dict[str, list[str]] = {}
    for option, known in values.items():
        choices.setdefault(" ".join(known), []).append(option)
    form = 'words="{}"' if shell == "bash" else "compadd -- {}"
    told = " ".join(f"'{name}:{command.says.replace(chr(39), '')}'" for name, command in COMMANDS.items())
    return (BASH if shell == "bash" else ZSH).format(
        commands=" ".join(COMMANDS),
        told=told,
        values="\n".join(f"  {'|'.join(names)}) {form.format(known)};;" for known, names in choices.items()),
        options="\n".join(f"  {command}) {form.format(' '.join(known))};;" for command, known in options.items()),
    )


def _words() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Options by command, and choices by option."""
    options, values = dict[str, list[str]](), dict[str, list[str]]()
    for name, command in COMMANDS.items():
        if command.module != RUN:
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.suppress(Answered):
                import_module(command.module).run(["--help"])
            options[name] = [*dict.fromkeys(re.findall(r"(?<![\w-])--[a-z][\w.-]*\b", said.getvalue()))]
    from hiso_pl.cli import running  # which takes seconds
    from hiso_pl.cli.trainer_table import FIXED

    of_run = {f"--{name}": action for name, action in running.every_option_of("fit") if name not in FIXED}
    options["|".join(name for name, command in COMMANDS.items() if command.module == RUN)] = [*of_run]
    for option, action in of_run.items():
        if known := _choices(option, action):
            values[option] = known
    return options, values


def _choices(option: str, action: Any) -> list[str]:
    """What an option can be, where there are few things: classes, words, true and false."""
    from hiso_pl.cli import parser_privates, trainer_table

    decision = trainer_table.TRAINER.get(option.removeprefix("--trainer."))
    if decision is not None and decision.values is not None:
        return [word for word in decision.values if isinstance(word, str)] if isinstance(decision.values, tuple) else []
    classes = {path.rpartition(".")[2] for path in parser_privates.known_classes(action)}
    return (sorted(classes) if len(classes) < MANY else []) if classes else parser_privates.words(action)
