"""What a configuration says of stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hiso_pl.ranks import environment
from hiso_pl.stages.carried import CarriedCut
from hiso_pl.stages.cut import Cut
from hiso_pl.stages.group import StageGroup
from hiso_pl.stages.held import loading
from hiso_pl.stages.offload import Offload, filling


@dataclass(frozen=True)
class Stages:
    """A network is cut into stages, consecutive blocks, and each displaced point exists for one stage at a time.

    The result is that of the network uncut, to the bit.

    Args:
        count: Number of stages.
        on: Where stages are. ``host``: one after another, x and H in this process's own memory. On a GPU a stage is
            brought there while the one before it is worked on, once a round, so that two of them are there at a time.
            ``ranks``: each on a rank of its own, which holds x and H of it alone, and points flow through them. Then
            ``count`` ranks are what a rank is without stages: each client, or each share of the clients, has so many.
        blocks: Name of the list of blocks that is cut, or the end of it; the largest one if null.
        starts: The first block of each stage. If null, cut so that the largest stage is small: on the host by the bytes
            that are displaced, on ranks by those of all parameters.
        offload_dir: Folder for files that hold x, H and what a rule keeps, and are mapped into memory. They are
            scratch: they have no names and go with the process. It should not be a file system in memory. If null, all
            are in memory.

    From files and to a GPU each stage is brought once a round: a round's update is done as the next round comes to the
    stage. Code of your own that reads weights in between calls ``optimizer.complete()`` before.

    Raises:
        ValueError: If there are fewer than two stages, or their first blocks are not as many.
    """

    count: int = 2
    on: Literal["host", "ranks"] = "host"
    blocks: str | None = None
    starts: list[int] | None = None
    offload_dir: str | None = None

    def __post_init__(self) -> None:
        """Checks the numbers."""
        if isinstance(self.count, bool) or self.count < 2:
            raise ValueError(f"count={self.count} must be at least 2: leave stages out for a network uncut")
        if self.on not in ("host", "ranks"):
            raise ValueError(f"on={self.on!r} must be 'host' or 'ranks'")
        if self.starts is not None and len(self.starts) != self.count:
            raise ValueError(f"starts={self.starts} must have a first block for each of {self.count} stages")

    @property
    def ranks(self) -> int:
        """Ranks that hold a network together."""
        return self.count if self.on == "ranks" else 1

    def told(self, network: nn.Module, parameters: Sequence[Tensor]) -> dict[str, Any]:
        """What a :class:`~hiso_pl.zeroth_order.ZerothOrderOptimizer` is told of stages on the host.

        The network's parameters move where they are to live.

        Args:
            network: The network.
            parameters: The trained ones, in tensor order.

        Raises:
            ValueError: If it cannot be cut so, is not on the CPU, or nothing can be written to the folder; if stages
                are on ranks, which are those of a run.
        """
        if self.on != "host":
            raise ValueError(
                "stages.on=ranks must be host here: stages are on ranks in fit, validate, test, predict and bench"
            )
        self._check_on_cpu(network)
        cut = Cut(network, parameters, self.count, self.blocks, self.starts)
        return {"stages": cut, "deferred": self.offload_dir is not None, **self._kept(network)}

    def carries(self, device: torch.device) -> bool:
        """Whether stages live in host memory and are brought to a device."""
        return self.on == "host" and device.type != "cpu"

    def carried(
        self, network: nn.Module, parameters: Sequence[Tensor], device: torch.device
    ) -> tuple[CarriedCut, dict[str, Any]]:
        """As :meth:`told`, where they are brought to a device; the network is on the CPU yet.

        Raises:
            ValueError: If it cannot be cut so, or nothing can be written to the folder.
        """
        cut = CarriedCut(network, parameters, device, self.count, self.blocks, self.starts)
        keep = self._kept(network).get("keep", cut.carrier.kept)
        return cut, {"stages": cut, "deferred": True, "keep": keep}

    def group(self, network: nn.Module) -> StageGroup:
        """The ranks that hold a network together, where stages are on ranks.

        Raises:
            ValueError: If it cannot be cut so, or is not on the CPU.
        """
        self._check_on_cpu(network)
        return StageGroup(network, self.count, self.blocks, self.starts)

    def told_of(self, group: StageGroup, network: nn.Module) -> dict[str, Any]:
        """As :meth:`told`, of a group that knows what is whose.

        Raises:
            ValueError: If nothing can be written to the folder.
        """
        return {"stages": group, **self._kept(network)}

    def _kept(self, network: nn.Module) -> dict[str, Any]:
        if self.offload_dir is None:
            return {}
        offload = Offload(self.offload_dir)
        offload.put(network)
        return {"keep": offload.take}

    def check_device(self, device: torch.device) -> None:
        """Refuses a device that cannot have them.

        Raises:
            ValueError: If it is one.
        """
        if device.type != "cpu" and self.on == "ranks" and self.offload_dir is not None:
            raise ValueError(f"model.stages.offload_dir={self.offload_dir!r} must be null with on=ranks on GPUs")

    @staticmethod
    def _check_on_cpu(network: nn.Module) -> None:
        if any(p.device.type not in ("cpu", "meta") for p in network.parameters()):
            raise ValueError("stages are cut where models are loaded: the network must be on the CPU")


@contextmanager
def made_in_place(options: Any, alone: bool = False) -> Iterator[None]:
    """A network that is loaded inside the block is from the start where its stages are to be.

    Args:
        options: What a configuration says of stages; None for a network uncut.
        alone: Whether the network is to be whole in this process, even where its stages are on ranks.
    """
    with ExitStack() as stack:
        if options is not None:
            stages = options if isinstance(options, Stages) else Stages(**vars(options))
            if stages.on == "ranks" and not alone:
                stage = environment.rank() % stages.count
                stack.enter_context(loading(stage, stages.count, stages.blocks, stages.starts))
            stack.enter_context(filling(stages.offload_dir))
        yield
