"""The command ``hiso-pl replay``: a run's state from its start and its records.

Nothing in a ledger is followed: where weights are is said on the command line, and the name in the file is only shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from hiso_pl.cli.parser import ConfigurationError, parse_settings
from hiso_pl.ranks import environment
from hiso_pl.run import lock
from hiso_pl.run.folder import run_around

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class ReplaySettings:
    """One replay.

    Args:
        ledger: The ledger.
        weights: Folder or hub name of the weights the run started from; not needed where all of them are stored.
        revision: Branch, tag or commit of them on the hub.
        method: Configuration of the run, such as its config.yaml, where its method has parts from outside the package:
            they are imported because you name them here, never because the ledger does.
        to: How many rounds to apply. If null, all, or as many as the checkpoint's.
        verify: Whether to compare the state with the ledger's closing digest, or with the checkpoint.
        checkpoint: A checkpoint of the run to compare with.
        output: Where to write the result: FILE.safetensors holds the trained tensors, FILE.ckpt is a checkpoint.
        device: Where to compute.
        threads: CPU threads. If null, all cores.

    Raises:
        ValueError: If an option cannot be.
    """

    ledger: str
    weights: str | None = None
    revision: str | None = None
    method: str | None = None
    to: int | None = None
    verify: bool = False
    checkpoint: str | None = None
    output: str | None = None
    device: Device = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked before anything is read."""
        if self.to is not None and self.to < 0:
            raise ValueError(f"to={self.to} must not be negative: it counts rounds")
        if self.device not in get_args(Device):
            raise ValueError(f"device={self.device!r} must be one of {', '.join(get_args(Device))}")
        if self.output is not None and Path(self.output).suffix not in (".safetensors", ".ckpt"):
            raise ValueError(f"output={self.output!r} must end in .safetensors or .ckpt")
        if self.output is not None and not Path(self.output).absolute().parent.is_dir():
            raise ValueError(f"output={self.output!r} must lie in a folder that exists")


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
