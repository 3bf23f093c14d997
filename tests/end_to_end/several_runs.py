"""Runs the program several times in one process, or in the ranks of one launch, since starting a process is what costs.

Usage: several_runs.py JOBS.json OUTCOMES

JOBS.json is a list of [name, arguments]; ``{rank}`` in an argument is the rank. ``OUTCOMES.RANK`` becomes a JSON object
of [exit status, lines on stderr] by name.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

from hiso_pl.cli import program as cli
from hiso_pl.ranks import environment


def main() -> None:
    jobs, outcomes = Path(sys.argv[1]), sys.argv[2]
    found = {}
    for name, args in json.loads(jobs.read_text()):
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            status = cli.main([arg.replace("{rank}", str(environment.rank())) for arg in args])
        found[name] = [status, said.getvalue().splitlines()]
        Path(f"{outcomes}.{environment.rank()}").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
