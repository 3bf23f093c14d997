"""The command ``hiso-pl launch``: several ranks on this machine, or on several machines."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from hiso_pl.cli.mistakes import Answered, ConfigurationError
from hiso_pl.nearest import did_you_mean
from hiso_pl.ranks import environment
from hiso_pl.run import going_on

COMMANDS = ("fit", "validate", "test", "predict", "bench")
"""Those that several ranks carry out together."""
LARGEST = 4096
DESCRIPTION = """\
Starts several ranks, each with the command that follows: one on each GPU of this machine, or as many as --nproc says.

  hiso-pl launch --nproc 4 fit --config quickstart
  hiso-pl launch --nnodes 2 --rdzv-endpoint node1:29500 fit --config FILE     (the same on each machine)

If a rank fails, its reason is the last line that is printed, with the command that goes on, and its exit status is that
of the launch. Ctrl-C, SIGTERM and SIGHUP end a run after its round, with its state saved; a second one kills it.
`hiso-pl fit --trainer.devices 4` is the same on one machine. `torchrun -m hiso_pl fit` works as well: torchrun then
prints a table of its own after the reason, and ends with its own status."""


class CommandLine(argparse.ArgumentParser):
    """A command line without configuration files, whose parser imports nothing; it refuses in one line.

    Args:
        command: The command.
        given: What argparse's own is given.
    """

    def __init__(self, command: str, **given: Any) -> None:
        super().__init__(prog=f"hiso-pl {command}", allow_abbrev=False, **given)

    def error(self, message: str) -> NoReturn:
        """Refuses a command line.

        Raises:
            ConfigurationError: Always.
        """
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            option = unknown.split()[0].partition("=")[0]
            known = [name.strip("-") for name in self._option_string_actions]
            message = f"{option} is no option{did_you_mean(option.strip('-'), known, '--')}"
        raise ConfigurationError(f"{self.prog.partition(' ')[2]}: {message.removeprefix('argument ')}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Ends the program after an answer.

        Raises:
            Answered: Always.
        """
        raise Answered(status)


def _at_least(least: int, most: int = LARGEST) -> object:
    def number(text: str) -> int:
        if not re.fullmatch(r"\d+", text, re.ASCII) or not least <= int(text[:20]) <= most:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} must be a number of at least {least} and at most {most}")
        return int(text)

    return number


def _ranks(text: str) -> int:
    if text in ("auto", "gpu"):
        import torch

        return max(1, torch.cuda.device_count())
    return _at_least(1)(text)  # type: ignore[no-any-return, operator]


def _endpoint(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch(r"\d{1,5}", port, re.ASCII) or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} must be HOST:PORT, for instance node1:29500")
    return text


def parser() -> argparse.ArgumentParser:
    """The command line before the command that is launched; names that torchrun knows are known too."""
    made = CommandLine(
        "launch",
        usage="hiso-pl launch [OPTION ...] {fit,validate,test,predict,bench} [OPTION OF IT ...]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    ranks = "ranks on this machine: a number, or auto, the GPUs that torch sees, at least 1 (default: %(default)s)"
    add("--nproc", "--nproc-per-node", "--nproc_per_node", type=_ranks, default="auto", metavar="N", help=ranks)
    machines = "machines that take part, each with this command (default: %(default)s)"
    add("--nnodes", type=_at_least(1), default=1, metavar="N", help=machines)  # type: ignore[arg-type]
    meeting = "where they meet: one of them, under a name by which it knows itself and the others reach it; a free port"
    add("--rdzv-endpoint", "--rdzv_endpoint", type=_endpoint, metavar="HOST:PORT", help=meeting)
    name = "under which name, the same everywhere; set it where launches share an endpoint (default: %(default)s)"
    add("--rdzv-id", "--rdzv_id", default="hiso_pl", metavar="ID", help=name)
    address = (
        "the address by which the other machines reach this one (default: its host name). Set it on all where a host "
        "name cannot be resolved by the others, or is the loopback to itself; HOST is then one of these"
    )
    add("--local-addr", "--local_addr", metavar="ADDRESS", help=address)
    again = (
        "how often ranks are started again when one has failed; the run goes on from its folder, which needs "
        "--trainer.default_root_dir (default: %(default)s)"
    )
    add("--max-restarts", "--max_restarts", type=_at_least(0), default=0, metavar="N", help=again)  # type: ignore[arg-type]
    add("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return made


def run(args: Sequence[str]) -> int:
    """Runs the command, given what follows it.

    Returns:
        The exit status.

    Raises:
        ConfigurationError: If the command line cannot be understood, or asks for what cannot be.
        RunError: If the machines do not meet.
    """
    made = parser()
    given = made.parse_args(list(args))
    command: list[str] = given.command
    if not command:
        raise ConfigurationError(f"launch: a command must follow, one of {', '.join(COMMANDS)}: hiso-pl launch fit ...")
    if command[0] not in COMMANDS:
        other = did_you_mean(command[0], COMMANDS) or ": other commands are for one process"
        raise ConfigurationError(f"launch: {command[0]!r} must be one of {', '.join(COMMANDS)}{other}")
    for option in made._option_string_actions:
        if any(word.partition("=")[0] == option for word in command[1:]) and option not in ("-h", "--help"):
            raise ConfigurationError(f"launch: {option} must stand before {command[0]}: it is an option of launch")
    if environment.under_torchrun():
        raise ConfigurationError(
            f"launch starts ranks itself, and {environment.BY_TORCHRUN} in the environment says that torchrun has: "
            f"start hiso-pl {command[0]} there, or unset it"
        )
    if given.nnodes > 1 and given.rdzv_endpoint is None:
        raise ConfigurationError(f"launch: --nnodes={given.nnodes} needs --rdzv-endpoint HOST:PORT, where they meet")
    if _asks(command):
        return subprocess.call([sys.executable, "-m", "hiso_pl", *command])
    before = list(args)[: len(args) - len(command)]
    started_by = f"{going_on.program()} launch {shlex.join(before)}".rstrip()
    meeting = {"local_addr": given.local_addr} if given.local_addr else {}
    if given.rdzv_endpoint is not None:
        meeting |= {"endpoint": given.rdzv_endpoint, "run_id": given.rdzv_id}
    return start(command, given.nproc, started_by, given.nnodes, given.max_restarts, **meeting)


def start(
    command: Sequence[str], ranks: int, started_by: str, machines: int = 1, max_restarts: int = 0, **meeting: str
) -> int:
    """Starts ranks and waits for them; gives the exit status."""
    quiet = "TORCH_CPP_LOG_LEVEL" not in os.environ
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # or a store that is gone is told of in a stack of frames
    from hiso_pl.ranks.agent import Launch, carry_out

    if quiet:
        del os.environ["TORCH_CPP_LOG_LEVEL"]  # read by now, and the ranks are to speak
    meeting.setdefault("run_id", f"hiso_pl-{os.getpid()}")
    return carry_out(Launch(command, ranks, started_by, machines, max_restarts=max_restarts, **meeting))


def _asks(command: Sequence[str]) -> bool:
    """Whether a command is called for what it prints."""
    return any(re.fullmatch(r"-h|--(.*\.)?help(=.*)?|--print_config(=.*)?|--version", word) for word in command[1:])
