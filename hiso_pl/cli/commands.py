"""The program's commands, each with a line and the module that is imported when it is called: one table.

Nothing heavy is imported here, so that help, a version or a mistyped command costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from hiso_pl.nearest import did_you_mean

RUN = "hiso_pl.cli.running"


@dataclass(frozen=True)
class Command:
    """A command of the program.

    Args:
        group: Heading that it stands under.
        says: What it does, in a line.
        module: Module whose ``run`` takes what follows the command, and before it the command's own name if the module
            serves several.
        takes_yours: Whether classes of the user's own may be named to it, so that the current folder is looked at too.
        prints: Whether it is called for what it prints, and has failed where nobody reads it.
    """

    group: str
    says: str
    module: str
    takes_yours: bool = False
    prints: bool = True


def _running(says: str) -> Command:
    return Command("run", says, RUN, takes_yours=True, prints=False)


COMMANDS: dict[str, Command] = {
    "fit": _running("train: rounds, validations, checkpoints, curves and a ledger in one folder"),
    "validate": _running("measure a checkpoint on the validation split"),
    "test": _running("measure a checkpoint on the test split"),
    "predict": _running("write what a checkpoint predicts for a split's examples"),
    "launch": Command("run", "start any of these on several processes or machines", "hiso_pl.cli.launch", prints=False),
    "ledger": Command("look and take away", "tell what a run's ledger holds", "hiso_pl.cli.ledger"),
    "replay": Command(
        "look and take away",
        "rebuild a run from its ledger, without data and forward passes, and check it",
        "hiso_pl.cli.replay",
        takes_yours=True,
    ),
    "export": Command(
        "look and take away",
        "write a checkpoint's model or adapter as a Hugging Face folder",
        "hiso_pl.cli.export",
        takes_yours=True,
    ),
    "bench": Command(
        "measure", "what a round costs on this machine, beside plain forward passes", "hiso_pl.cli.bench", True
    ),
    "study": Command(
        "measure",
        "carry out runs of several methods, rates and seeds, and compare them",
        "hiso_pl.cli.study",
        True,
        False,
    ),
    "report": Command(
        "measure", "compare any runs: tables, intervals, curves, and a page of them", "hiso_pl.cli.report"
    ),
    "diagnose": Command(
        "measure",
        "what explains it: gradient, noise and curvature by tensor, H against the Hessian, headroom",
        "hiso_pl.cli.diagnose",
        takes_yours=True,
    ),
    "configs": Command("help", "list, show and copy the configurations that come with it", "hiso_pl.cli.configs"),
    "env": Command("help", "versions, devices and a self-test of this machine", "hiso_pl.cli.env"),
    "completion": Command(
        "help", "a script that completes commands and options: bash or zsh", "hiso_pl.cli.completion"
    ),
}
"""Every command, in the order in which they are told."""


ELSEWHERE = {"train": "fit", "evaluate": "validate", "eval": "validate", "infer": "predict", "torchrun": "launch"}
"""What other programs call them."""


def overview() -> str:
    """All commands by group, a line each."""
    lines = [
        "usage: hiso-pl COMMAND [OPTION ...]",
        "",
        "Federated fine-tuning by forward passes: HiSo and DeComFL, a few scalars a round.",
    ]
    width, group = max(map(len, COMMANDS)), ""
    for name, command in COMMANDS.items():
        if command.group != group:
            group = command.group
            lines += ["", f"{group}:"]
        lines.append(f"  {name:<{width}}  {command.says}")
    lines += [
        "",
        "Each tells of its options by --help. Options may stand in YAML files, which compose; so a run is",
        "hiso-pl fit --config FILE_OR_NAME [--config ...] [--OPTION VALUE ...]. --version tells the version.",
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def unknown(given: str) -> str:
    """What is said of a word that is no command."""
    if given.startswith("-"):
        return f"{given} comes before the command: hiso-pl COMMAND {given} ..., where COMMAND is {_choices()}"
    meant = f": did you mean {ELSEWHERE[given]}?" if given in ELSEWHERE else did_you_mean(given, COMMANDS)
    return f"{given!r} is no command{meant or f': there are {_choices()}'}"


def _choices() -> str:
    return ", ".join(COMMANDS)
