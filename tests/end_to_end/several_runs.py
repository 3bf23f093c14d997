"""Runs the program several times in one process, or in the ranks of one launch, since starting a process is what costs.

Usage: several_runs.py JOBS.json OUTCOMES

JOBS.json is a list of [name, arguments]; ``{rank}`` in an argument is the rank, and of ``{this|that}`` each rank takes
its own. ``OUTCOMES.RANK`` becomes a JSON object of [exit status, lines on stderr] by name.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
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
            status = cli.main([_own(arg, environment.rank()) for arg in args])
        found[name] = [status, said.getvalue().splitlines()]
        Path(f"{outcomes}.{environment.rank()}").write_text(json.dumps(found))


def _own(argument: str, rank: int) -> str:
    text = re.sub(r"\{([^{}|]*(?:\|[^{}|]*)+)\}", lambda found: found[1].split("|")[rank], argument)
    return text.replace("{rank}", str(rank))


if __name__ == "__main__":
    main()
