"""What ``hiso-pl bench`` can be told, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from hiso_pl.models import LoRA
from hiso_pl.zeroth_order.options import DTYPES, ComputeDtype
from hiso_pl.zeroth_order.plan import Difference
from hiso_pl.zeroth_order.points import Memory
from hiso_pl.zeroth_order.streams import Distribution

PreconditionerName = Literal["diagonal", "identity", "scalar"]
DeviceName = Literal["auto", "cpu", "cuda"]

_CHOICES: dict[str, Any] = {
    "distribution": Distribution,
    "difference": Difference,
    "preconditioner": PreconditionerName,
    "compute_dtype": ComputeDtype,
    "memory": Memory,
    "device": DeviceName,
}
_AT_LEAST = {
    "batch_size": 1,
    "tokens": 1,
    "num_directions": 1,
    "local_steps": 1,
    "clients": 1,
    "repetitions": 1,
    "warmup": 0,
    "kernel_elements": 0,
    "seed": 0,
}


@dataclass(frozen=True)
class Settings:
    """One measurement.

    Args:
        model: A shape with random weights (``opt-tiny``, ``opt-7m``, ``opt-50m``, ``opt-125m``, ``opt-350m``,
            ``opt-1.3b``, ``opt-2.7b``, ``opt-6.7b``), a model's folder, or ``owner/name`` on the hub.
        batch_size: Examples in a client's minibatch.
        tokens: Tokens of every example; there is no padding.
        num_directions: Directions P probed in a local step.
        local_steps: Local steps tau of a client in a round.
        clients: Clients in the cohort, dealt over the ranks of the launch.
        difference: ``forward`` evaluates P + 1 points a local step, ``central`` 2 P.
        distribution: Elements of a direction are standard ``normal`` or ``rademacher`` signs.
        preconditioner: ``diagonal`` (HiSo), ``identity`` (DeComFL) or one ``scalar``.
        mu: Size of the displacements.
        compute_dtype: What forward passes compute in, plain ones and probes alike.
        memory: Whether probing keeps a copy of the trainable parameters (``fast``) or not (``low``).
        directions_per_forward: Directions evaluated by one forward pass; ``auto`` leaves it to the optimizer.
        peft: Low-rank adapters to train instead of the whole model.
        attention: Attention implementation, as transformers names it; null leaves the choice to it.
        threads: CPU threads of a rank. If null, 1 under torchrun and all cores otherwise.
        device: ``auto`` takes a GPU if there is one.
        repetitions: Timed repetitions, of which medians are reported.
        warmup: Repetitions before these.
        seed: Seed of weights, tokens and directions.
        usual: Whether to time the usual way as well: noise added to the weights and taken off again, full logits.
            Weights and H are put back from a copy on the host each time.
        memory_measure: Whether to measure peak memory, by the allocator's own count.
        kernel_elements: Elements of the tensor that the kernels are measured on alone; 0 leaves that out.
        sweep_tokens: Further numbers of tokens, to find where the ratio of round and forwards crosses 1.2.
        output: JSON file to write, in a folder that exists.

    Raises:
        ValueError: If an option cannot be.
    """

    model: str = "opt-7m"
    batch_size: int = 16
    tokens: int = 32
    num_directions: int = 5
    local_steps: int = 1
    clients: int = 1
    difference: Difference = "forward"
    distribution: Distribution = "normal"
    preconditioner: PreconditionerName = "diagonal"
    mu: float = 1e-3
    compute_dtype: ComputeDtype = "float32"
    memory: Memory = "fast"
    directions_per_forward: int | Literal["auto"] = 1
    peft: LoRA | None = None
    attention: str | None = None
    threads: int | None = None
    device: DeviceName = "auto"
    repetitions: int = 9
    warmup: int = 2
    seed: int = 0
    usual: bool = True
    memory_measure: bool = True
    kernel_elements: int = 16_000_000
    sweep_tokens: list[int] = field(default_factory=list)
    output: str | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked before anything is built."""
        for name, least in _AT_LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {', '.join(get_args(choices))}")
        if not (self.mu > 0.0 and math.isfinite(self.mu)):
            raise ValueError(f"mu={self.mu} must be finite and positive")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads={self.threads} must be at least 1")
        if self.directions_per_forward != "auto" and self.directions_per_forward < 1:
            raise ValueError(f"directions_per_forward={self.directions_per_forward} must be at least 1, or 'auto'")
        if any(tokens < 1 for tokens in self.sweep_tokens):
            raise ValueError(f"sweep_tokens={self.sweep_tokens} must be at least 1 each")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device='cuda' given, but there is no GPU that torch can use: take 'cpu' or 'auto'")
        if self.output is not None:
            _check_output(Path(self.output))

    @property
    def dtype(self) -> torch.dtype:
        """What forward passes compute in."""
        return DTYPES[self.compute_dtype]

    @property
    def forwards_per_step(self) -> int:
        """Forwards of one client in a local step: P + 1, or 2 P with central differences."""
        return self.num_directions + 1 if self.difference == "forward" else 2 * self.num_directions

    @property
    def forwards_per_slot(self) -> int:
        """Forwards of one client in a round."""
        return self.local_steps * self.forwards_per_step


def _check_output(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"output={str(path)!r} is a folder, must be a file")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"output={str(path)!r}: there is no folder {str(path.absolute().parent)!r}; make it first")
