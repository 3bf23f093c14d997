"""The command ``hiso-pl ledger``: what a ledger holds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hiso_pl.cli.parser import parse_settings


@dataclass(frozen=True)
class LedgerSettings:
    """One look into a ledger.

    Args:
        ledger: The ledger.
        records: How many of its last records to show.
        plot: A picture of the scalars over the rounds to draw, such as FILE.png.

    Raises:
        ValueError: If an option cannot be.
    """

    ledger: str
    records: int = 5
    plot: str | None = None

    def __post_init__(self) -> None:
        """Checks the number."""
        if self.records < 0:
            raise ValueError(f"records={self.records} must not be negative")


def run(args: Sequence[str]) -> None:
    """Runs ``hiso-pl ledger``, given what follows it: prints what a ledger holds.

    Raises:
        ConfigurationError: If the command line cannot be understood.
        ValueError: If the ledger is damaged or no ledger.
    """
    settings = parse_settings(LedgerSettings, "hiso-pl ledger", "Prints what a ledger holds.", args, "ledger")
    from hiso_pl.ledger import show  # torch comes with it, which help does without
    from hiso_pl.ledger.reader import ledger_of_command

    reader = ledger_of_command(settings.ledger)
    sys.stdout.write(show.text(reader, settings.records))
    sys.stdout.flush()
    if settings.plot is not None:
        show.plot(reader, Path(settings.plot))
