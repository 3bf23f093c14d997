"""The program: `python -m hiso_pl`, and the console script `hiso-pl`."""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress

# OpenMP's threads wait for work by spinning, for milliseconds, on the very cores that the kernels' own threads then
# want: a displacement on two cores takes 1.6 times as long. It is read when torch is imported, so it is said before.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
# Some families of models let transformers fetch kernels, which are code, from the hub wherever the package for that is
# installed. Nothing but a user turns that on; it is read when transformers is imported.
os.environ.setdefault("USE_HUB_KERNELS", "NO")

from hiso_pl.ranks import early_signals, environment


def main() -> None:
    """Run the command line and exit with its status."""
    early_signals.end_at_once()
    from hiso_pl.cli import output

    output.fill_gaps()
    try:
        environment.check_numbers()  # Lightning reads them when it is imported
    except ValueError as error:
        sys.stderr.write(f"hiso-pl: error: {error}\n")
        sys.exit(1)
    from hiso_pl.cli import commands, program

    command = commands.COMMANDS.get((sys.argv[1:2] or [""])[0])
    if command is not None and command.module != commands.RUN:
        early_signals.over()
    if command is not None and not command.prints:
        output.outlast_readers()
    if command is not None and command.takes_yours and not {"", os.getcwd()} & {*sys.path}:
        sys.path.append(os.getcwd())  # last, so that a file there takes no module's place
    status = program.main()
    if environment.under_torchrun() or environment.BY_STUDY in os.environ:
        # All is written and the process group is closed, but gloo's threads may still abort the process while the C++
        # runtime ends ("terminate called without an active exception"), and the launch would count as failed; and one
        # of many short runs would take a quarter of a second to take apart what it has shared.
        atexit._run_exitfuncs()
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
