"""Where a run goes on from: the one question, answered once, before anything is built."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hiso_pl.ledger.reader import LedgerReader
from hiso_pl.ranks import environment, launch_store
from hiso_pl.run import checkpoint
from hiso_pl.run.best import best_kept
from hiso_pl.run.folder import CHECKPOINTS_FOLDER, LEDGER, checkpoints, held_by_run

log = logging.getLogger(__name__)


@dataclass
class Start:
    """Where a run begins or goes on.

    Attributes:
        root: The run's folder.
        kind: ``fresh`` from round 0, ``checkpoint``, or ``ledger``: from the newest checkpoint or the initial weights,
            by the records that follow.
        path: The checkpoint.
        content: What is gone on from, read once; of a ledger it is there when the ranks have met.
        rounds: Rounds done there; how far a ledger leads only rank 0 knows.
        owns_folder: Whether a run that the folder holds is this one's own, begun by an earlier attempt.
        named: Whether the checkpoint was asked for by its path, so that it stays whatever takes its place.
    """

    root: Path
    kind: Literal["fresh", "checkpoint", "ledger"] = "fresh"
    path: Path | None = None
    content: Mapping[str, Any] | None = None
    rounds: int = 0
    owns_folder: bool = False
    named: bool = False

    @property
    def resumes(self) -> bool:
        """Whether the run goes on from something."""
        return self.kind != "fresh"

    @property
    def source(self) -> str | None:
        """What Lightning is told to load, and keeps for ever; ScalarStrategy gives it :attr:`content` for it."""
        if self.kind == "checkpoint":
            return str(self.path if self.named else self.root / CHECKPOINTS_FOLDER)
        return None if self.kind == "fresh" else str(self.root / LEDGER)

    def __str__(self) -> str:
        """So far as all ranks must know it."""
        if self.kind == "checkpoint":
            return f"round {self.rounds}"
        return "the ledger" if self.kind == "ledger" else "the start"


def resolve(root: Path, asked: str | None, fitting: bool, save_every: int | None = None, repeats: bool = True) -> Start:
    """Finds out where a run goes on from.

    Args:
        root: The run's folder.
        asked: A checkpoint's path, ``last`` for the newest in the folder, ``best`` for the one ``checkpoint.monitor``
            prefers or, for a fit, ``ledger``, or ``auto``: what a restart of the ranks gets by itself, the newest
            checkpoint, the ledger if none can be read, or the start.
        fitting: Whether rounds are to follow.
        save_every: Rounds between two checkpoints.
        repeats: Whether rounds that are computed again come to the same. Where they do not, as their noise is drawn
            anew and counts as a further release, those that the ledger has are applied instead.

    Raises:
        ValueError: If there is no such thing, or it cannot be read.
    """
    if not fitting:
        return _checkpoint(root, asked) if asked is not None else Start(root)
    if asked == "best":
        raise ValueError("ckpt_path=best must be last for fit, which goes on where it ended; to go back, name the file")
    began: str | None = "ckpt_path=auto" if asked == "auto" and held_by_run(root) else None
    if launch_store.has_begun(str(root)):
        began = f"Restarted by {environment.launcher()}"
    if asked == "ledger":
        return _ledger(root, began is not None)
    if asked not in ("auto", "last", None) and began is None:
        return _checkpoint(root, asked)
    if asked in ("auto", None) and began is None:
        return Start(root)
    found = checkpoint.newest(root)
    if not repeats and _leads_to(root) > (found[1]["global_step"] if found else 0):
        log.warning("%s: going on from the ledger, as rounds made again would be released again.", began or root)
        return _ledger(root, began is not None)
    if found is None and _ledger_serves(root, asked, save_every):
        why = "no checkpoint can be read" if checkpoints(root) else "nothing was saved"
        log.warning("%s: going on from the ledger, as %s.", began or root, why)
        return _ledger(root, began is not None)
    if found is None and asked == "last":
        raise ValueError(f"ckpt_path=last: {root} holds no checkpoint that can be read")
    if found is None and asked not in ("auto", None):
        found = Path(asked), checkpoint.read(asked)
    if began is not None:
        log.warning("%s: going on from %s.", began, found[0] if found else "the start, as nothing was saved")
    if found is None:
        return Start(root, owns_folder=True)
    named = asked not in ("auto", "last", None) and found[0] == Path(str(asked))
    return Start(root, "checkpoint", *found, found[1]["global_step"], began is not None, named)


def check_rounds(start: Start, rounds: int) -> None:
    """Says of a run that has all its rounds that none is left, and what its end lacks is made up for.

    Args:
        start: Where the run goes on from.
        rounds: How many it is to have.

    Raises:
        ValueError: If it has more already: there is no way back.
    """
    if not start.resumes or start.rounds < rounds:
        return
    source = start.path or start.root / LEDGER
    if start.rounds > rounds:
        raise ValueError(
            f"trainer.max_steps={rounds} lies behind round {start.rounds}, which {source} goes on from: "
            f"set more than {start.rounds}, or name a checkpoint of an earlier round as ckpt_path"
        )
    if environment.rank() == 0:
        log.warning(
            "The run in %s has all its %d rounds (%s): nothing is left to train. Raise trainer.max_steps to go on.",
            *(start.root, rounds, source),
        )


def _checkpoint(root: Path, asked: str) -> Start:
    if asked == "best":
        asked = str(best_kept(root))
    found = checkpoint.newest(root) if asked == "last" else (Path(asked), checkpoint.read(asked))
    if found is None:
        raise ValueError(f"ckpt_path=last: {root} holds no checkpoint that can be read")
    return Start(root, "checkpoint", *found, found[1]["global_step"], named=asked != "last")


def _ledger(root: Path, owns_folder: bool) -> Start:
    rounds = 0
    if environment.rank() == 0:  # the others may not see its folder
        if not (root / LEDGER).is_file():
            raise ValueError(f"ckpt_path=ledger: {root} holds no {LEDGER}")
        rounds = LedgerReader(root / LEDGER).rounds
    return Start(root, "ledger", rounds=rounds, owns_folder=owns_folder)


def _leads_to(root: Path) -> int:
    """How many rounds the ledger has; none if it cannot be read, which is for others to say."""
    with suppress(ValueError, OSError):
        return LedgerReader(root / LEDGER).rounds
    return 0


def _ledger_serves(root: Path, asked: str | None, save_every: int | None) -> bool:
    """Whether to go on from the ledger where there is no checkpoint.

    A restart before the first one was due computes those few rounds again, with their validations.
    """
    if not (root / LEDGER).is_file():
        return False
    if asked == "last" or not save_every or checkpoints(root):
        return True
    return LedgerReader(root / LEDGER).rounds >= save_every
