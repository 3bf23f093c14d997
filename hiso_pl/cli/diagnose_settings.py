"""What ``hiso-pl diagnose`` is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class DiagnoseSettings:
    """One diagnosis.

    Args:
        run: A run's folder, or a configuration by its file or name.
        at: Rounds to look at, each before it is made; none for the last that the folder leads to.
        config: The run's configuration, such as its config.yaml, where it names classes from outside the package or
            turns on code that comes with a model: that is done because you name it here, never because a folder holds
            it.
        clients: Clients whose minibatches are taken, those that a cohort of so many in that round has. If null, all.
        batches: Minibatches of each client, from the streams of the round.
        probes: Random vectors by which traces and diagonals are estimated where they are not had exactly.
        eigenvalues: How many eigenvalues of the Hessian are found, from both ends, where it is not computed whole;
            0 leaves them out, which halves the work.
        exact: Whether the Hessian is computed whole, and not estimated by the probes; if null, where it is small.
        output: Folder for tables (Markdown, CSV, JSON) and pictures (PNG, PDF): a new one, or that of an earlier
            diagnosis. If null, all is said and nothing is written.
        device: Where to compute; ``auto`` is the GPU if there is one.
        threads: CPU threads. If null, all cores.

    Raises:
        ValueError: If an option cannot be.
    """

    run: str
    at: tuple[int, ...] = ()
    config: str | None = None
    clients: int | None = None
    batches: int = 4
    probes: int = 16
    eigenvalues: int = 4
    exact: bool | None = None
    output: str | None = None
    device: Device = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked before anything is read."""
        for round in self.at:
            if round < 0:
                raise ValueError(f"at={round} must not be negative: it counts rounds")
        least = {"clients": 1, "batches": 2, "probes": 4, "threads": 1}
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ValueError(f"{name}={value} must be at least {lowest}")
        if self.eigenvalues < 0 or self.eigenvalues == 1:
            raise ValueError(f"eigenvalues={self.eigenvalues} must be 0, or at least 2: some of each end")
        if self.device not in get_args(Device):
            raise ValueError(f"device={self.device!r} must be one of {', '.join(get_args(Device))}")
