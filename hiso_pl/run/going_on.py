"""How a run that has ended early is gone on with: the command, as it can be pasted."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from hiso_pl.ranks import environment
from hiso_pl.run.folder import CONFIG, LEDGER, checkpoints

_begun: Path | None = None


def begun(root: Path | None) -> None:
    """Notes which run has come to its rounds in this process; none at the beginning of a command."""
    global _begun
    _begun = root


def after_failure() -> str:
    """The command that goes on with the run that this process was in, if rounds of it are kept; else nothing."""
    if _begun is None or not (_begun / CONFIG).is_file():
        return ""
    from hiso_pl.ledger.reader import LedgerReader

    rounds = 0
    with suppress(ValueError, OSError):
        rounds = LedgerReader(_begun / LEDGER).rounds
    return command(_begun) if rounds or checkpoints(_begun) else ""


def command(root: Path) -> str:
    """The command line that goes on with the run in a folder, by the launch that this process is of."""
    return f"{_start()} fit {shlex.join(['--config', str(root / CONFIG), '--ckpt_path', 'last'])}"


def program() -> str:
    """The program as it can be called here."""
    return "hiso-pl" if shutil.which("hiso-pl") else f"{shlex.quote(sys.executable)} -m hiso_pl"


def _start() -> str:
    if environment.STARTED_BY in os.environ:
        return os.environ[environment.STARTED_BY]
    if not environment.under_torchrun():
        return program()
    machines = int(os.environ.get("GROUP_WORLD_SIZE", "1"))
    options = "OPTIONS" if machines > 1 else f"--standalone --nproc-per-node={environment.local_world_size()}"
    torchrun = "torchrun" if shutil.which("torchrun") else f"{shlex.quote(sys.executable)} -m torch.distributed.run"
    return f"{torchrun} {options} -m hiso_pl"
