"""The command ``hiso-pl diagnose``: what explains how a method fares on a model and its data, by backpropagation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hiso_pl.cli.diagnose_settings import DiagnoseSettings
from hiso_pl.cli.parser import ConfigurationError, Parser, add_traceback
from hiso_pl.ranks import environment

DESCRIPTION = """\
Tells what explains how a method fares: hiso-pl diagnose RUN_OR_CONFIG [OPTION ...] [-- OPTION OF FIT ...]. Of a run's
folder at its last round, or at the rounds given, each as a checkpoint or the records of the ledger lead there; of a
configuration at its initial weights. By backpropagation, dropout off: squared gradient, minibatch noise and curvature
by tensor, largest eigenvalues, how H follows the true diagonal, the headroom of own directions, the greedy learning
rate. Options of fit are those of model, data and seed."""

ACTING = ("--config", "-c", "--seed_everything", "--model", "--data", "--trainer.max_steps")
"""The options of fit that a diagnosis looks at."""


def run(args: Sequence[str]) -> Any:
    """Runs ``hiso-pl diagnose``, given what follows it; behind a ``--`` in that are options of ``fit``.

    Raises:
        ConfigurationError: If one of the two cannot be understood.
        ValueError: If there is no such round, a file is damaged, or the numbers cannot be had.
    """
    end = args.index("--") if "--" in args else len(args)
    settings = parse(args[:end])
    options = list(args[end + 1 :])
    check_options(options)
    if environment.world_size() > 1:
        raise ConfigurationError(
            f"diagnose is for one process, not {environment.world_size()}: start it without a launcher"
        )
    if settings.output is not None:
        check_output(Path(settings.output).expanduser())
    from hiso_pl.cli.diagnosing import diagnosed  # torch and Lightning come with it, which help does without

    return diagnosed(settings, options)


def parse(args: Sequence[str]) -> DiagnoseSettings:
    """Reads a command line, without the options of ``fit``.

    Raises:
        ConfigurationError: If it cannot be understood.
    """
    parser = Parser(prog="hiso-pl diagnose", description=DESCRIPTION)
    parser.add_argument("run", type=str, metavar="RUN_OR_CONFIG", help="A run's folder, or a configuration.")
    parser.add_argument("--at", nargs="+", type=int, default=[], metavar="ROUND", help="Rounds to look at.")
    parser.add_class_arguments(DiagnoseSettings, skip={"run", "at"})
    add_traceback(parser)
    config = parser.parse_args(list(args))
    given = {field.name: config[field.name] for field in fields(DiagnoseSettings)}
    try:
        return replace(DiagnoseSettings(**{**given, "at": ()}), at=tuple(sorted({*config.at})))
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def check_options(options: Sequence[str]) -> None:
    """Refuses options of fit that a diagnosis would not look at.

    Raises:
        ConfigurationError: If there is one.
    """
    for word in options:
        name = word.partition("=")[0]
        acts = any(name == known or name.startswith((f"{known}.", f"{known}+")) for known in ACTING)
        if name.startswith("--") and not acts:
            raise ConfigurationError(
                f"{name} does not act in a diagnosis, which looks at {', '.join(ACTING)} of fit's options alone"
            )


def check_output(folder: Path) -> None:
    """Refuses a folder that holds something else than an earlier diagnosis.

    Raises:
        ConfigurationError: If it does.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"output={folder} is a file, must be a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "diagnosis.json").is_file():
        raise ConfigurationError(f"output={folder} holds something else than a diagnosis: give another folder")
