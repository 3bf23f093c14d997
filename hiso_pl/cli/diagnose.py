"""The command ``hiso-pl diagnose``: what explains how a method fares on a model and its data, by backpropagation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from hiso_pl.cli.parser import ConfigurationError, Parser, add_traceback
from hiso_pl.ranks import environment

Device = Literal["auto", "cpu", "cuda"]

DESCRIPTION = """\
Tells what explains how a method fares: hiso-pl diagnose RUN_OR_CONFIG [OPTION ...] [-- OPTION OF FIT ...]. Of a run's
folder at its last round, or at the rounds given, each as a checkpoint or the records of the ledger lead there; of a
configuration at its initial weights. By backpropagation, dropout off: squared gradient, minibatch noise and curvature
by tensor, largest eigenvalues, how H follows the true diagonal, the headroom of own directions, the greedy learning
rate. Options of fit are those of model, data and seed."""

ACTING = ("--config", "-c", "--seed_everything", "--model", "--data", "--trainer.max_steps")
"""The options of fit that a diagnosis looks at."""


@dataclass(frozen=True)
class DiagnoseSettings:
    """One diagnosis.

    Args:
        run: A run's folder, or a configuration by its file or name.
        at: Rounds to look at, each before it is made; none for the last that the folder leads to.
        config: The run's configuration, such as its config.yaml, where it names classes from outside the package or
            turns on code that comes with a model: that is done because you name it here, never because a folder holds
            it.
        clients: Clients whose minibatches are taken, those that a cohort of so many in that round has. If null, all.
        batches: Minibatches of each client, from the streams of the round.
        probes: Random vectors by which traces and diagonals are estimated where they are not had exactly.
        eigenvalues: How many eigenvalues of the Hessian are found, from both ends, where it is not computed whole;
            0 leaves them out, which halves the work.
        exact: Whether the Hessian is computed whole, and not estimated by the probes; if null, where it is small.
        output: Folder for tables (Markdown, CSV, JSON) and pictures (PNG, PDF): a new one, or that of an earlier
            diagnosis. If null, all is said and nothing is written.
        device: Where to compute; ``auto`` is the GPU if there is one.
        threads: CPU threads. If null, all cores.

    Raises:
        ValueError: If an option cannot be.
    """

    run: str
    at: tuple[int, ...] = ()
    config: str | None = None
    clients: int | None = None
    batches: int = 4
    probes: int = 16
    eigenvalues: int = 4
    exact: bool | None = None
    output: str | None = None
    device: Device = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked before anything is read."""
        for round in self.at:
            if round < 0:
                raise ValueError(f"at={round} must not be negative: it counts rounds")
        least = {"clients": 1, "batches": 2, "probes": 4, "threads": 1}
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ValueError(f"{name}={value} must be at least {lowest}")
        if self.eigenvalues < 0 or self.eigenvalues == 1:
            raise ValueError(f"eigenvalues={self.eigenvalues} must be 0, or at least 2: some of each end")
        if self.device not in get_args(Device):
            raise ValueError(f"device={self.device!r} must be one of {', '.join(get_args(Device))}")


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
