"""The command ``hiso-pl report``: what runs have come to, as a table, documents, pictures and a page."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hiso_pl.cli.parser import Parser, add_traceback

DESCRIPTION = """\
Compares runs by one rule and tells of them: hiso-pl report FOLDER ... [OPTION ...]. A folder is a run's, a study's, or
one with runs somewhere below it. Runs of a study are called as there; of one's own, by their method and the options in
which they differ. A method's learning rate is chosen on validation, and told with its test. What is damaged, missing,
unequal or of too few seeds is said below the table. Reports start nothing and change no run."""


def run(args: Sequence[str]) -> None:
    """Runs ``hiso-pl report``, given what follows it.

    Raises:
        ConfigurationError: If the command line cannot be understood.
        ValueError: If there is nothing to compare, or a file cannot be written.
    """
    options = parse(args)
    from hiso_pl.report.comparison import aim_of, compare
    from hiso_pl.report.documents import document, for_terminal
    from hiso_pl.report.run import asked_aim, read_runs
    from hiso_pl.report.writing import check_output, write_report

    folders = [Path(folder).expanduser() for folder in options.folders]
    output = None if options.output is None else Path(options.output).expanduser()
    runs = read_runs(folders)
    asked = asked_aim(folders)
    metric, by = options.metric or asked.get("metric"), options.by or asked.get("by")
    aim = aim_of(runs, metric, by, asked.get("targets", ()) if options.targets is None else options.targets)
    comparison = compare(runs, aim)
    if output is not None:
        check_output(output)
        write_report(comparison, output, command=shlex.join(["hiso-pl", "report", *args]))
    if options.format is None and sys.stdout.isatty():
        sys.stdout.write(for_terminal(comparison, shutil.get_terminal_size().columns))
    else:
        sys.stdout.write(document(comparison, options.format or "markdown"))
    sys.stdout.flush()


def parse(args: Sequence[str]) -> Any:
    """Reads the command line.

    Raises:
        ConfigurationError: If it cannot be understood.
    """
    parser = Parser(prog="hiso-pl report", description=DESCRIPTION)
    add = parser.add_argument
    add("folders", type=str, nargs="+", help="Folders of runs or studies.")
    add("--metric", type=str, help="What is compared; without, what the study compares, or the first usual one.")
    by = "What chooses a rate: best or last value of the metric, rounds to the first target, or last val/loss."
    add("--by", choices=("best", "last", "rounds", "loss"), help=f"{by} Without, what the study goes by, or best.")
    add("--targets", nargs="+", type=float, help="Values of the metric whose cost is told.")
    add("--output", type=str, metavar="FOLDER", help="Folder for all documents, the pictures and the page.")
    add("--format", choices=("markdown", "latex", "csv", "json"), help="What is printed; else a table.")
    add_traceback(parser)
    return parser.parse_args(list(args))
