"""What can be asked of a replay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

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
        offload_dir: Folder for files that hold x, H and what a rule keeps while it computes, on the CPU; they are gone
            with it. If null, all are in memory.
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
    offload_dir: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked before anything is read."""
        if self.to is not None and self.to < 0:
            raise ValueError(f"to={self.to} must not be negative: it counts rounds")
        if self.device not in get_args(Device):
            raise ValueError(f"device={self.device!r} must be one of {', '.join(get_args(Device))}")
        if self.offload_dir is not None and self.device != "cpu":
            raise ValueError(f"offload_dir={self.offload_dir!r} must be null with device={self.device!r}")
        if self.output is not None and Path(self.output).suffix not in (".safetensors", ".ckpt"):
            raise ValueError(f"output={self.output!r} must end in .safetensors or .ckpt")
        if self.output is not None and not Path(self.output).absolute().parent.is_dir():
            raise ValueError(f"output={self.output!r} must lie in a folder that exists")
