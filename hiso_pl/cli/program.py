"""The program: which command is called, what it says, and its exit status."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

import hiso_pl
from hiso_pl.cli import commands, edge
from hiso_pl.cli.mistakes import ConfigurationError
from hiso_pl.ranks import environment
from hiso_pl.ranks.last_words import last_words
from hiso_pl.run import lock


def _log_quietly() -> None:
    """One voice for a launch of many ranks; the warnings left out are those that a run cannot act on."""
    level = logging.INFO if environment.rank() == 0 else logging.ERROR
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("hiso_pl").setLevel(level)
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")  # a bar for each rank tells nothing
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING if environment.rank() == 0 else logging.ERROR)
    for name in ("profilers", "callbacks.model_summary"):  # what was asked for by an option of the trainer
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(level)
    if environment.rank() != 0:
        warnings.filterwarnings("ignore", module=r"lightning\..*")
    for pattern in (
        r".*args parameter is intended to run from within Python.*",
        r".*does not have many workers.*",
        r".*Using ModelCheckpoint with manual optimization.*",
        r".*Found \d+ module\(s\) in eval mode.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*instantiate_classes.*",
        r".*isinstance\(treespec, LeafSpec\).*",
        r".*sync_dist=True.*",
        r".*The dirpath has changed from.*",
        r".*batching rule for aten.*",
        r".*is_gradient_checkpointing. is deprecated.*",  # said to PEFT, not to users
    ):
        warnings.filterwarnings("ignore", message=pattern)


def _call(given: Sequence[str]) -> None:
    """Calls the command that a command line begins with, whose module is imported for it."""
    if not given or given[0] in ("-h", "--help", "help"):
        sys.stdout.write(commands.overview())
    elif given[0] == "--version":
        sys.stdout.write(f"hiso-pl {hiso_pl.__version__}\n")
    elif given[0] in commands.COMMANDS:
        command = commands.COMMANDS[given[0]]
        module = import_module(command.module)
        module.run(list(given if command.module == commands.RUN else given[1:]))
    else:
        raise ConfigurationError(commands.unknown(given[0]))


def main(args: list[str] | None = None) -> int:
    """Runs the program, by a command line or that of the process.

    Returns:
        The exit status: 0 after a run or a clean stop, 1 after an error, 2 for a command line that cannot be, 130 after
        an interrupt that found no round to wait for.
    """
    _log_quietly()
    given = sys.argv[1:] if args is None else args
    with last_words(), lock.none_left():
        return edge.status_of(lambda: _call(given), given)
