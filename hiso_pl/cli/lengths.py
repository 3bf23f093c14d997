"""Schedules that leave their length open get the run's, in the configuration, so that the run's files hold a number."""

from __future__ import annotations

import ast
import logging
from collections.abc import Mapping

from jsonargparse import Namespace

from hiso_pl.ledger import Header, LedgerReader
from hiso_pl.run import checkpoint
from hiso_pl.run.configuration import as_text
from hiso_pl.run.folder import LEDGER
from hiso_pl.run.start import Start

log = logging.getLogger(__name__)

OPEN = (
    "model.lr_scheduler",
    "model.method.init_args.mu_schedule",
    "model.method.init_args.num_directions_schedule",
)
"""Where schedules are."""


def follow_the_run(config: Namespace, start: Start) -> None:
    """Writes the run's number of rounds where a schedule has ``rounds: null``.

    A run that goes on keeps the number it had, whatever ``trainer.max_steps`` is by now, unless the
    option is among those of ``change_on_resume``.
    """
    saved = _saved(start)
    for name in OPEN:
        key = f"{name}.init_args.rounds"
        part = config.get(name)
        if not isinstance(part, Namespace) or "rounds" not in part.get("init_args", {}) or config[key] is not None:
            continue
        rounds = config.trainer.max_steps
        had = ast.literal_eval(saved.get(key, "None"))
        asked = any(key == change or key.startswith(f"{change}.") for change in config.get("change_on_resume") or ())
        if type(had) is int and had != rounds and not asked:
            log.warning(
                "%s stays %d, as the run had it, where trainer.max_steps is %d: --change_on_resume '[%s]' makes it %d.",
                *(key, had, rounds, key, rounds),
            )
            rounds = had
        config[key] = rounds


def _saved(start: Start) -> Mapping[str, str]:
    """The leaves of the configuration that a run had so far; of a ledger that this machine does not see, none."""
    if start.content is not None:
        config: Mapping[str, str] = start.content[checkpoint.KEY]["config"]
        return config
    if start.kind != "ledger" or not (start.root / LEDGER).is_file():
        return {}
    reader = LedgerReader(start.root / LEDGER)
    headers = [reader.header, *(entry for entry in reader.entries() if isinstance(entry, Header))]
    return as_text(headers[-1].configuration)
