"""What a configuration says of stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from hiso_pl.stages.cut import Cut
from hiso_pl.stages.offload import Offload


@dataclass(frozen=True)
class Stages:
    """A network's probes go through it stage by stage: every displaced point exists for one stage at a time.

    x and H stay where they are, in memory or, with ``offload_dir``, in files that are mapped into it. The result is
    that of the network uncut, to the bit.

    Args:
        count: Number of stages.
        on: Where stages are: ``host``, one after another in this process's own memory.
        blocks: Name of the list of blocks that is cut, or the end of it; the largest one if null.
        starts: The first block of each stage; cut by the bytes that are displaced if null.
        offload_dir: Folder for files that hold x, H and what a rule keeps. They are scratch: they have no names and go
            with the process. It should not be a file system in memory. If null, all are in memory.

    Raises:
        ValueError: If there are fewer than two stages, or their first blocks are not as many.
    """

    count: int = 2
    on: Literal["host"] = "host"
    blocks: str | None = None
    starts: list[int] | None = None
    offload_dir: str | None = None

    def __post_init__(self) -> None:
        """Checks the numbers."""
        if isinstance(self.count, bool) or self.count < 2:
            raise ValueError(f"count={self.count} must be at least 2: leave stages out for a network uncut")
        if self.on != "host":
            raise ValueError(f"on={self.on!r} must be 'host'")
        if self.starts is not None and len(self.starts) != self.count:
            raise ValueError(f"starts={self.starts} must have a first block for each of {self.count} stages")

    def told(self, network: nn.Module, parameters: Sequence[Tensor]) -> dict[str, Any]:
        """What a :class:`~hiso_pl.zeroth_order.ZerothOrderOptimizer` is told of them; the network's parameters move.

        Args:
            network: The network.
            parameters: The trained ones, in tensor order.

        Raises:
            ValueError: If it cannot be cut so, is not on the CPU, or nothing can be written to the folder.
        """
        if any(p.device.type not in ("cpu", "meta") for p in network.parameters()):
            raise ValueError("stages are on the host: the network must be on the CPU")
        cut = Cut(network, parameters, self.count, self.blocks, self.starts)
        if self.offload_dir is None:
            return {"stages": cut}
        offload = Offload(self.offload_dir)
        offload.put(network)
        return {"stages": cut, "keep": offload.take}
