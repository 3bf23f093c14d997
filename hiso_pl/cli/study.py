"""The command ``hiso-pl study``: carries out the runs of a study, and tells what they have come to."""

from __future__ import annotations

import contextlib
import functools
import io
import shlex
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse.typing import PositiveInt

from hiso_pl.cli.parser import ConfigurationError, Parser, add_traceback
from hiso_pl.cli.study_file import over, read
from hiso_pl.run.configuration import as_text
from hiso_pl.study.file import BY, Study, study_of
from hiso_pl.study.names import StudyError

DESCRIPTION = """\
Carries out a study, methods by settings by learning rates by seeds, and tells the best rates, chosen on validation
alone: hiso-pl study FILE_OR_NAME --root FOLDER [--KEY VALUE ...] [-- OPTION OF FIT ...]. A study file is YAML:
`hiso-pl configs show study/NAME` shows those that there are, and options put other values over a file's. Without a
file: hiso-pl study --root FOLDER --methods hiso decomfl --lrs 0.003 0.006 -- --config FILE_OR_NAME. Started again it
goes on where it stopped: complete runs are not repeated, a broken-off one is resumed from its last checkpoint. A study
may grow from one call to the next; another configuration in the same folder is an error. Ctrl-C ends the runs under way
after their rounds. The folder gets study.yaml as it was carried out, tables and pictures, and each run its fit.log."""


def run(args: Sequence[str]) -> int:
    """Runs ``hiso-pl study``, given what follows it; behind a ``--`` in that are options of ``fit``.

    Returns:
        The exit status: 0, or after a signal 128 and its number.

    Raises:
        ConfigurationError: If the command line or the study file asks for what cannot be.
        ValueError: If the folder holds something else or is in use, or there is nothing to tell.
        ChildProcessError: If runs failed; the others were carried out all the same.
    """
    at = args.index("--") if "--" in args else len(args)
    options = parse(args[:at])
    study, question = asked(options, args[at + 1 :])
    from hiso_pl.study.grid import Grid  # none of this is needed for help
    from hiso_pl.study.progress import said_once
    from hiso_pl.study.runner import carry_out
    from hiso_pl.study.search import Search, way_of
    from hiso_pl.study.ways import WAYS

    root = Path(options.root).expanduser()
    try:
        way = way_of(study.rates, WAYS)
        with said_once():
            grid = Grid(study, root, resolve)
        search = Search(grid, way)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    told = yaml.safe_dump(study.as_data(), sort_keys=False, allow_unicode=True)
    told = f"# {question}\n{told}" if question else told
    ended = carry_out(root, grid.common, search, options.nproc, options.jobs, options.progress, told=told)
    if ended.signal:
        return 128 + ended.signal
    search.next()  # what the plans have come to
    way.store(root, search.returned)
    with contextlib.suppress(*([ValueError] if ended.failed else [])):  # as there may be nothing to tell
        tell(root, study, question, shlex.join(["hiso-pl", "study", *args]))
    if ended.failed:
        raise ChildProcessError(f"{len(ended.failed)} run(s) failed: {ended.failed[0]}")
    return 0


def parse(args: Sequence[str]) -> Any:
    """Reads the options of the study itself.

    Raises:
        ConfigurationError: If they cannot be understood.
    """
    parser = Parser(prog="hiso-pl study", description=DESCRIPTION)
    add, some = parser.add_argument, functools.partial(parser.add_argument, nargs="+", type=str)
    add("study", nargs="?", type=str, help="A study file, or the name of one that comes with it.")
    add("--root", type=str, required=True, help="Folder of the study; each run gets one below it.")
    add("--quick", action="store_true", help="A shorter study, as the file has it under quick.")
    add("--jobs", type=PositiveInt, default=1, help="Most runs at a time.")
    add("--nproc", type=PositiveInt, default=1, help="Ranks of a run.")
    add("--progress", type=bool, default=True, help="Whether the progress of the runs is shown.")
    some("--methods", help="Some of the file's methods; without a file, names of presets such as hiso, or files.")
    some("--settings", help="Some of the file's settings.")
    some("--cross", metavar=("KEY", "VALUE"), action="append", help="One more option of fit, and its values.")
    some("--lrs", metavar="[METHOD=]LR[,LR]", help="Learning rates; without any, the configuration's own.")
    some("--seeds", help="Seeds.")
    some("--config", help="Files or presets that all runs begin with; single options of fit follow a --.")
    add(
        "--rates",
        type=str,
        help="How rates are found: grid, halving or optuna, or YAML such as {halving: {keep: 0.5}}.",
    )
    add("--metric", type=str, help="What is compared: a metric of validation.")
    add(
        "--by",
        choices=BY,
        help="What of it chooses a rate: its best or last value, rounds to the first target, or loss.",
    )
    some("--targets", help="Values of the metric to reach.")
    add_traceback(parser)
    return parser.parse_args(list(args))


def asked(options: Any, fit: Sequence[str]) -> tuple[Study, str]:
    """The study that a command line asks for, and the sentence that its file begins with.

    Args:
        options: The study's own options.
        fit: Options of ``fit``, which come after those of the file.

    Raises:
        ConfigurationError: If it asks for what cannot be.
    """
    if options.study is None and options.quick:
        raise ConfigurationError("quick needs a study file, which says what is shorter")
    try:
        study, question = (None, "") if options.study is None else read(options.study, options.quick)
        given = {key: value for key, value in vars(options).items() if value is not None}
        return study_of(over(study, given, fit)), question
    except StudyError as error:
        raise ConfigurationError(str(error)) from error


def tell(root: Path, study: Study, question: str, command: str) -> None:
    """Writes and prints what the runs below a folder have come to.

    Raises:
        ValueError: If there is nothing to compare.
    """
    from hiso_pl.report.comparison import aim_of, compare
    from hiso_pl.report.documents import document, for_terminal
    from hiso_pl.report.run import read_runs
    from hiso_pl.report.writing import write_report

    runs = read_runs([root])
    comparison = compare(runs, aim_of(runs, study.metric, study.by, study.targets))
    write_report(comparison, root, "study", question, command)
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns
    sys.stdout.write(for_terminal(comparison, width) if terminal else document(comparison, "markdown"))
    sys.stdout.flush()


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
