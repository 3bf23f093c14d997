"""The program ``python -m hiso_pl.small_language``."""

import sys

from hiso_pl.small_language.program import main

if __name__ == "__main__":
    sys.exit(main())
