"""The command ``hiso-pl replay``: a run's state from its start and its records.

Nothing in a ledger is followed: where weights are is said on the command line, and the name in the file is only shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hiso_pl.cli.parser import ConfigurationError, parse_settings
from hiso_pl.cli.replay_settings import ReplaySettings
from hiso_pl.ranks import environment
from hiso_pl.run import lock
from hiso_pl.run.folder import run_around


def run(args: Sequence[str]) -> str:
    """Runs ``hiso-pl replay``, given what follows it: rebuilds a run's state, and returns its digest.

    Raises:
        ConfigurationError: If the command line cannot be understood.
        ValueError: If the ledger is damaged, the weights are others, or the digest is not the one it should be.
    """
    settings = parse_settings(
        ReplaySettings,
        "hiso-pl replay",
        "Rebuilds a run's state, without data and forward passes; --verify compares it with the ledger's closing "
        "digest, or with the checkpoint.",
        args,
        positional="ledger",
        flag="verify",
    )
    if environment.world_size() > 1:
        raise ConfigurationError(
            f"replay is for one process, not {environment.world_size()}: start it without a launcher"
        )
    from hiso_pl.cli.replaying import replayed  # torch comes with it, which help does without

    root = None if settings.output is None else run_around(Path(settings.output))
    if root is None:
        return replayed(settings)
    with lock.held(root):  # nobody else writes among the files of a run that goes on
        return replayed(settings)
