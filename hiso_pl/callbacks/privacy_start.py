"""What a private run starts from: noise for its target, and the releases that there have been."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from lightning.pytorch import Trainer
from numpy.typing import NDArray

from hiso_pl.federation.presence.attendance import Presence
from hiso_pl.federation.privacy.account import Worst, noise_for
from hiso_pl.federation.privacy.budget_file import BudgetFile, Terms, terms_in
from hiso_pl.ledger import LedgerError, LedgerReader
from hiso_pl.run.folder import BUDGET, LEDGER

log = logging.getLogger(__name__)

T = TypeVar("T")


def decided(trainer: Trainer, decide: Callable[[], T]) -> T:
    """What rank 0 decides, told to all ranks; an error of it is raised on all of them.

    Raises:
        ValueError: If it cannot decide.
    """
    said, found = None, None
    if trainer.is_global_zero:
        try:
            found = decide()
        except (ValueError, OSError) as error:
            said = str(error)
    said, found = trainer.strategy.broadcast((said, found))
    if said is not None:
        raise ValueError(said)
    return found  # type: ignore[return-value]


def cohorts_of(trainer: Trainer, first: int, rounds: int) -> NDArray[np.int64]:
    """The clients of each round from one on, -1 for those that release nothing, shape ``[rounds - first, m]``.

    Who comes too late has sent its scalars all the same.
    """
    presence = trainer.datamodule.presence()  # type: ignore[attr-defined]
    return np.array([releasing(presence, round) for round in range(first, rounds)], dtype=np.int64)


def releasing(presence: Presence, round: int) -> NDArray[np.int64]:
    """The clients of a round, -1 for those that release nothing, shape ``[m]``."""
    found = presence.attendance(round)
    clients = np.array(found.clients, dtype=np.int64)
    clients[[*found.away, *found.failed]] = -1
    return clients


def rates_of(trainer: Trainer, privacy: Any) -> NDArray[np.float64]:
    """The probability with which each of a client's examples enters a round's minibatch, shape ``[clients]``."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    if privacy.level == "client":
        return np.ones(data.clients)
    return np.minimum(1.0, data.batch_size / np.asarray(data.ownership.sizes, dtype=np.float64))


def noise_of(trainer: Trainer, privacy: Any, rounds: int) -> float:
    """The noise multiplier for a target: that of the releases that a run goes on from, or the least that will do.

    Raises:
        ValueError: If the run has no end, or none will do.
    """
    if rounds < 1:
        raise ValueError(
            f"trainer.max_steps={rounds} must be the number of rounds where privacy.target_epsilon is given, as noise "
            "is found for all of them: set it, or give noise_multiplier"
        )
    before = _file_before(trainer)
    if before is not None:
        return terms_in(before).noise_multiplier
    rates, cohorts = rates_of(trainer, privacy), cohorts_of(trainer, 0, rounds)
    releases = np.bincount(cohorts[cohorts >= 0], minlength=len(rates))
    noise = noise_for(privacy.target_epsilon, Worst(rates, releases), privacy.delta, privacy.accountant)
    log.info(
        "privacy.target_epsilon=%g at delta=%g takes noise_multiplier=%.6g: %d rounds, up to %d releases of a client.",
        *(privacy.target_epsilon, privacy.delta, noise, rounds, releases.max()),
    )
    return noise


def file_of(trainer: Trainer, privacy: Any, restored: Mapping[str, Any], changed: tuple[str, ...]) -> BudgetFile:
    """The file of a run's releases, with those that it goes on from.

    Args:
        trainer: The trainer, which knows the round that comes next.
        privacy: How scalars are made private.
        restored: What the checkpoint said of the file: ``run`` and ``lines``.
        changed: Terms that differ as it was asked for.

    Raises:
        ValueError: If it is not known what has been released.
    """
    data, path, before = trainer.datamodule, Path(trainer.default_root_dir) / BUDGET, _file_before(trainer)  # type: ignore[attr-defined]
    sampling = hashlib.sha256(rates_of(trainer, privacy).tobytes()).hexdigest()[:16]
    terms = Terms(
        *(privacy.level, float(privacy.noise), float(privacy.clip), float(privacy.delta), privacy.accountant),
        *(data.clients, sampling if privacy.level == "example" else "", data.seed),
    )
    if before is None and trainer.global_step:
        raise ValueError(
            f"{path} does not exist, so nobody knows what the {trainer.global_step} rounds before have released: "
            "restore it, or start a new run in another folder"
        )
    file, ledger = BudgetFile(path, terms, before, changed), path.with_name(LEDGER)
    if restored.get("run") not in (None, "", file.terms.run):
        raise ValueError(f"{before} has the releases of another run than {trainer.ckpt_path} is of: restore its own")
    rounds, lines = trainer.global_step, int(restored.get("lines", 0))
    if ledger.is_file():
        with suppress(LedgerError):  # of which the ledger itself tells
            rounds = max(rounds, LedgerReader(ledger).rounds)
    if file.rounds < rounds or file.lines < lines:
        raise ValueError(
            f"{before or path} tells of {file.lines} rounds, the last of them {file.rounds}, but {max(rounds, lines)} "
            "have been made: restore it, or start a new run in another folder"
        )
    return file


def _file_before(trainer: Trainer) -> Path | None:
    """The file of the releases that a run goes on from: its own, or that of the run whose checkpoint it begins with."""
    places = [Path(trainer.default_root_dir)]
    if trainer.ckpt_path:
        places += Path(str(trainer.ckpt_path)).absolute().parents[:2]
    return next((place / BUDGET for place in places if (place / BUDGET).exists()), None)
