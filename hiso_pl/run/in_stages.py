"""What a module of a run does with a network that is cut into stages."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hiso_pl.run.checkpointed import Checkpointed
from hiso_pl.stages import Stages
from hiso_pl.zeroth_order.carried import Uncut
from hiso_pl.zeroth_order.interfaces import MethodBase
from hiso_pl.zeroth_order.method import Method


class InStages(Checkpointed):
    """A module whose network may be held by several ranks, or be brought to its device stage by stage.

    Attributes:
        method: What a round computes.
        stages: How the network is cut; None where it is whole.
        staged: What the optimizer is told of it.
        uncut: What evaluates a network that lives in host memory; None where it is evaluated as it is.
    """

    method: MethodBase
    stages: Stages | None
    staged: dict[str, Any]
    uncut: Uncut | None = None

    def collective_device(self) -> torch.device:
        """Where a tensor must be to be handed to the process group."""
        return torch.device(getattr(self.trainer.strategy, "collective_device", "cpu"))

    def cut_into(self, stages: Stages | None) -> None:
        """Has the network, which is on the CPU yet, cut as a configuration says; None leaves it whole.

        Raises:
            ValueError: If it cannot be cut so, or the method takes no stages.
        """
        self.stages, self.group, self.staged = stages, None, {}
        if stages is None:
            return
        if not isinstance(self.method, Method):
            raise ValueError(
                f"model.stages must be null with method={type(self.method).__name__}: stages are of scalar-only methods"
            )
        if self.method.directions_per_forward != 1:
            raise ValueError(
                f"directions_per_forward={self.method.directions_per_forward} must be 1 with model.stages, through "
                "which points go one by one"
            )
        if stages.on == "host":
            self.staged = stages.told(self.network, [p for _, p in self.trainable()])
            return
        if self.method.privacy is not None:
            raise ValueError(
                f"model.method.privacy={self.method.privacy!r} must be null with model.stages.on=ranks: each rank of a "
                "client would draw noise and minibatches of its own"
            )
        self.group = stages.group(self.network)

    def setup(self, stage: str) -> None:
        """Finds out what is whose, where ranks hold the network together.

        Raises:
            ValueError: If a checkpoint is to be saved when the ranks may be anywhere.
        """
        if self.group is None:
            return
        if any(getattr(callback, "save_on_exception", False) for callback in self.trainer.callbacks):  # type: ignore[attr-defined]
            raise ValueError(
                "checkpoint.save_on_exception=true must be false with model.stages.on=ranks: all ranks have a part in "
                "writing one"
            )
        self.settle()

    def settle(self) -> None:
        """As :meth:`setup`, for who needs to know earlier; the data are there, and all ranks ask at the same time.

        Raises:
            ValueError: If ranks do not come to whole groups, or the network cannot be had so.
        """
        group, stages = self.group, self.stages
        if group is None or stages is None or group.settled:
            return
        examples = self.trainer.datamodule.splits.val  # type: ignore[attr-defined]
        batch = {**examples.collate(np.zeros(1, dtype=np.int64)), "index": torch.zeros(1, dtype=torch.int64)}
        group.settle(
            partial(self.network.loss, batch),
            partial(self.network.evaluate, batch),
            self.trainer.world_size,
            self.collective_device(),
            getattr(self.trainer.strategy, "patience", None),
        )
        self.staged = stages.told_of(group, self.network)
        self.exchange.silent = not group.last

    def carry(self, device: torch.device) -> list[Tensor]:
        """Prepares for a device to which stages are brought; gives the parameters that stay in host memory."""
        if self.stages is None or not self.stages.carries(device):
            return []
        parameters = [p for _, p in self.trainable()]
        cut, self.staged = self.stages.carried(self.network, parameters, device)
        self.uncut = Uncut(cut, parameters, self.method.dtype)
        return cut.settle_in()
