"""A ledger that begins with the records of another run's: of the one whose checkpoint a run goes on from."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from hiso_pl.ledger.format import LedgerError, stored_path
from hiso_pl.ledger.reader import LedgerReader
from hiso_pl.run.folder import LEDGER
from hiso_pl.run.whole_file import whole_file

log = logging.getLogger(__name__)


def ledger_of(path: Path) -> Path | None:
    """The ledger of the run that a checkpoint is of, where it lies as a run leaves it."""
    places = (path.parent / LEDGER, path.parent.parent / LEDGER)
    return next((place for place in places if place.is_file()), None)


def copy_records(source: Path, path: Path, round: int) -> None:
    """Begins a ledger with another's records up to ``round``, and the tensors beside it.

    Raises:
        LedgerError: If that one is damaged or ends earlier.
    """
    reader = LedgerReader(source)
    if reader.rounds < round:
        raise LedgerError(f"{source} ends after round {reader.rounds - 1}, the checkpoint is of round {round}")
    before, _ = reader.around(round)
    if stored_path(source).is_file():
        with whole_file(stored_path(path)) as part:
            shutil.copyfile(stored_path(source), part)
    with whole_file(path) as part, source.open("rb") as file:
        part.write_bytes(file.read(before.end))
    log.info("The ledger goes on from the %d rounds of %s.", round, source)
