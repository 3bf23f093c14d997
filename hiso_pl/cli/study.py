"""The command ``hiso-pl study``: carries out the runs of a study, and tells the best learning rates."""

from __future__ import annotations

import contextlib
import functools
import io
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse.typing import PositiveInt

from hiso_pl import presets
from hiso_pl.cli.parser import ConfigurationError, Parser
from hiso_pl.run.configuration import as_text
from hiso_pl.run.folder import json_text, write_atomically
from hiso_pl.study.grid import Study, plain_name
from hiso_pl.study.runs import METRICS, read_study

DESCRIPTION = """\
Runs methods, learning rates and seeds of one configuration, and tells the best rates: hiso-pl study --root FOLDER
[OPTION ...] -- OPTION OF FIT ... Started again it goes on where it stopped: complete runs are not repeated, a
broken-off one is resumed from its last checkpoint. The grid may grow from one call to the next; another configuration
in the same folder is an error. Ctrl-C ends the runs under way after their rounds. The folder gets study.md and
study.json, with the tables over all its runs, and each run with its fit.log. Rates are chosen on validation alone."""


def run(args: Sequence[str]) -> None:
    """Runs ``hiso-pl study``, given what follows it; behind a ``--`` in that are options of ``fit``.

    Raises:
        ConfigurationError: If one of the two cannot be understood.
        ValueError: If the folder holds something else or is in use, or there is nothing to tell.
        ChildProcessError: If runs failed; the others were carried out all the same.
        SystemExit: After an interrupt, with 128 and the signal's number.
    """
    at = args.index("--") if "--" in args else len(args)
    options = parse(args[:at])
    from hiso_pl.study.choice import grids  # none of this is needed for help
    from hiso_pl.study.plot import plot
    from hiso_pl.study.report import report
    from hiso_pl.study.whole import carry_out_study

    root, failed = Path(options.root).expanduser(), list[str]()
    if not options.report:
        try:
            seeds, methods, vary = (tuple(options[name]) for name in ("seeds", "methods", "vary"))
            study = Study(root, tuple(args[at + 1 :]), seeds, methods, rates(options.lrs), vary)
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        try:
            failed, came = carry_out_study(study, resolve, options.nproc, options.jobs)
        except KeyboardInterrupt:  # before the first run
            raise SystemExit(130) from None
        if came:
            raise SystemExit(128 + came)
    names = [plain_name(presets.label(method)) for method in options.methods]
    outcomes, aim = read_study(root, options.metric, options.by, options.target, names)
    text, plain = report(grids(outcomes), aim)
    write_atomically(root / "study.md", text)
    write_atomically(root / "study.json", json_text(plain, 1) + "\n")
    sys.stdout.write(text)
    if options.plot is not None:
        plot(Path(options.plot), grids(outcomes), aim)
    if failed:
        raise ChildProcessError(f"{len(failed)} run(s) failed: {failed[0]}")


def parse(args: Sequence[str]) -> Any:
    """Reads the options of the study itself.

    Raises:
        ConfigurationError: If they cannot be understood.
    """
    parser = Parser(prog="hiso-pl study", description=DESCRIPTION)
    add, some = parser.add_argument, functools.partial(parser.add_argument, nargs="+", default=[])
    add("--root", type=str, required=True, help="Folder of the study; each run gets one below it.")
    some("--methods", help="Names of presets such as hiso, or files; each comes after the files of fit.")
    some("--lrs", metavar="[METHOD=]LR[,LR]", help="Learning rates; without, the configuration's own.")
    add("--seeds", nargs="+", type=int, default=[1], help="Seeds.")
    some("--vary", metavar=("KEY", "VALUE"), help="One more option of fit, and its values.")
    add("--nproc", type=PositiveInt, default=1, help="Ranks of a run.")
    add("--jobs", type=PositiveInt, default=1, help="Most runs at a time.")
    add("--metric", type=str, help=f"What is compared; without, the first there is of {', '.join(METRICS)}.")
    by = "What chooses a rate: best or last value of the metric, rounds to the target, or last val/loss."
    add("--by", choices=("best", "last", "rounds", "loss"), default="best", help=by)
    add("--target", type=float, help="Value of the metric to reach; a run that diverged has not reached it.")
    add("--report", action="store_true", help="Start nothing, tell what there is.")
    add("--plot", type=str, metavar="FILE", help="Picture of the curves at the chosen rates.")
    options = parser.parse_args(list(args))
    if options.target is None and (options.by == "rounds" or options.plot is not None):
        raise ConfigurationError("by=rounds and plot need a --target")
    return options


def rates(words: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Learning rates by method, under "" those that name none.

    Raises:
        ValueError: If one is no number.
    """
    found: dict[str, tuple[float, ...]] = {}
    for word in words:
        method, _, values = word.rpartition("=")
        try:
            found[method] = (*found.get(method, ()), *(float(value) for value in values.split(",")))
        except ValueError:
            raise ValueError(f"lrs={word} must be numbers, or METHOD= and numbers with commas") from None
    return found


def resolve(arguments: Sequence[str]) -> Mapping[str, str]:
    """The configuration that ``fit`` makes of its options, as text under dotted keys.

    Raises:
        ConfigurationError: If it cannot be understood.
    """
    from hiso_pl.cli import program  # which imports the commands when they are called

    said, errors, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, about arguments beside those of the process
        with contextlib.suppress(SystemExit):  # its own way to end once it has printed
            status = program.main(["fit", *arguments, "--print_config"])
    if status != 0:
        raise ConfigurationError(errors.getvalue().rpartition("hiso-pl: error: ")[2].strip())
    return as_text(yaml.safe_load(said.getvalue()))
