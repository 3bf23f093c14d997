"""Whether a round that was computed again gave what the ledger has of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hiso_pl.ledger import format as fmt
from hiso_pl.ledger.format import LedgerError
from hiso_pl.ledger.walk import Frame
from hiso_pl.zeroth_order.record import RoundRecord, told


def is_of(there: Frame, record: RoundRecord) -> bool:
    """Whether a frame of a ledger holds that very record."""
    return isinstance(there.value, RoundRecord) and fmt.pack_record(there.value) == fmt.pack_record(record)


def check_equal(path: Path, there: Frame, record: RoundRecord) -> None:
    """Compares a record with what a ledger holds of its round.

    Raises:
        LedgerError: If the two differ: which number differs first, and where.
    """
    round = record.round
    where = f"{path}: record {round} (round {round}, byte {there.offset})"
    if not isinstance(there.value, RoundRecord):
        raise LedgerError(f"{where}: from here on the ledger was made with other options", round, round)
    if is_of(there, record):
        return
    for name in ("lr", "mu", "scalars", "dropped"):
        old, new = (_said(name, getattr(r, name)) for r in (there.value, record))
        if old != new:
            what = f"{name} is {old} there, and this run computed {new}"
            raise LedgerError(f"{where}: {what}", round, round, there.offset)
    raise LedgerError(f"{where}: the two differ", round, round, there.offset)


def _said(name: str, value: Any) -> str:
    return f"({told(value)})" if name == "dropped" else " ".join(str(value).split())
