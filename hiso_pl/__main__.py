"""The program: `python -m hiso_pl`, and the console script `hiso-pl`."""

from __future__ import annotations

import sys

from hiso_pl import cli


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
