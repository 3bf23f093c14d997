"""What ``hiso-pl bench`` can be told, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch

from hiso_pl.models import LoRA
from hiso_pl.stages import Stages
from hiso_pl.zeroth_order.method import Method

DeviceName = Literal["auto", "cpu", "cuda"]

_AT_LEAST = {"batch_size": 1, "tokens": 1, "clients": 1, "repetitions": 1, "warmup": 0, "kernel_elements": 0, "seed": 0}

METHOD = Method(lr=1e-8)


@dataclass(frozen=True)
class Settings:
    """One measurement.

    Args:
        method: What a round computes; its learning rate is so small that the weights stay sane however many rounds run.
        model: A shape with random weights (``opt-tiny``, ``opt-7m``, ``opt-50m``, ``opt-125m``, ``opt-350m``,
            ``opt-1.3b``, ``opt-2.7b``, ``opt-6.7b``), a model's folder, or ``owner/name`` on the hub.
        batch_size: Examples in a client's minibatch.
        tokens: Tokens of every example; there is no padding.
        clients: Clients in the cohort, dealt over the ranks of the launch.
        peft: Low-rank adapters to train instead of the whole model.
        attention: Attention implementation, as transformers names it; null leaves the choice to it.
        stages: How probes go through the network stage by stage, one after another here or each on a rank of its own;
            uncut if null. Ranks make random weights whole before each lets go of what is not its own.
        threads: CPU threads of a rank. If null, 1 where ranks are launched and all cores otherwise.
        device: ``auto`` takes a GPU if there is one.
        repetitions: Timed repetitions, of which medians are reported.
        warmup: Repetitions before these.
        seed: Seed of weights, tokens and directions.
        usual: Whether to time the usual way as well: noise added to the weights and taken off again, full logits.
            Weights and H are put back from a copy on the host each time. If null, where a rank has the whole network.
        memory_measure: Whether to measure peak memory, by the allocator's own count.
        kernel_elements: Elements of the tensor that the kernels are measured on alone; 0 leaves that out.
        sweep_tokens: Further numbers of tokens, to find where the ratio of round and forwards crosses 1.2.
        output: JSON file to write, in a folder that exists.

    Raises:
        ValueError: If an option cannot be.
    """

    method: Method = METHOD
    model: str = "opt-7m"
    batch_size: int = 16
    tokens: int = 32
    clients: int = 1
    peft: LoRA | None = None
    attention: str | None = None
    stages: Stages | None = None
    threads: int | None = None
    device: DeviceName = "auto"
    repetitions: int = 9
    warmup: int = 2
    seed: int = 0
    usual: bool | None = None
    memory_measure: bool = True
    kernel_elements: int = 16_000_000
    sweep_tokens: list[int] = field(default_factory=list)
    output: str | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked before anything is built."""
        for name, least in _AT_LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if self.device not in get_args(DeviceName):
            raise ValueError(f"device={self.device!r} must be one of {', '.join(get_args(DeviceName))}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads={self.threads} must be at least 1")
        if any(tokens < 1 for tokens in self.sweep_tokens):
            raise ValueError(f"sweep_tokens={self.sweep_tokens} must be at least 1 each")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device='cuda' given, but there is no GPU that torch can use: take 'cpu' or 'auto'")
        self.method.check_rounds(self.clients, range(1))
        if self.usual is None:
            object.__setattr__(self, "usual", self.ranks == 1)
        elif self.usual and self.ranks > 1:
            raise ValueError("usual=true must be false with stages.on=ranks: the usual way has a whole network")
        if self.output is not None:
            _check_output(Path(self.output))

    @property
    def ranks(self) -> int:
        """Ranks that hold a network together."""
        return 1 if self.stages is None else self.stages.ranks

    @property
    def dtype(self) -> torch.dtype:
        """What forward passes compute in."""
        return self.method.dtype

    @property
    def forwards_per_step(self) -> int:
        """Forwards of one client in a local step: P + 1, or 2 P with central differences."""
        directions = self.method.num_directions
        return directions + 1 if self.method.difference == "forward" else 2 * directions

    @property
    def forwards_per_slot(self) -> int:
        """Forwards of one client in a round."""
        return self.method.local_steps * self.forwards_per_step


def _check_output(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"output={str(path)!r} is a folder, must be a file")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"output={str(path)!r}: there is no folder {str(path.absolute().parent)!r}; make it first")
