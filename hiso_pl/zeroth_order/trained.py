"""What is trained over rounds: parameters in the order that fixes their streams, and the round that comes next."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from hiso_pl.zeroth_order.philox import check_seed
from hiso_pl.zeroth_order.streams import check_numel


class Trained(Optimizer):
    """The one group of parameters of a run, fp32, with its learning rate, its seed and the round that comes next.

    Args:
        params: Parameters or (name, parameter) pairs, fp32, in the order that fixes their streams.
        lr: Learning rate.
        seed: The 64-bit seed of what is drawn.
        fixed: What else the group holds, and a saved state must have been made with.

    Raises:
        ValueError: If a parameter is not fp32, or there is more than one group of them.
    """

    def __init__(self, params: Iterable[Any], lr: float, seed: int, **fixed: Any) -> None:
        super().__init__(params, {"lr": lr, "seed": check_seed(seed), **fixed, "round": 0, "applied": 0})
        if len(self.param_groups) != 1:
            raise ValueError(f"{len(self.param_groups)} parameter groups given; one H and one lr serve all: give one")
        self._intact = True
        for name, parameter in zip(self.names, self.parameters, strict=True):
            if parameter.dtype != torch.float32:
                raise ValueError(
                    f"parameter {name!r} is {parameter.dtype}; masters are fp32: load the model in float32"
                )
            check_numel(parameter.numel(), name)

    @property
    def _group(self) -> dict[str, Any]:
        return self.param_groups[0]

    @property
    def parameters(self) -> list[Tensor]:
        """The trainable parameters, in tensor order."""
        return cast("list[Tensor]", self._group["params"])

    @property
    def names(self) -> list[str]:
        """Their names; numbers where none were given."""
        return self._group.get("param_names") or [f"parameter {i}" for i in range(len(self.parameters))]

    @property
    def round(self) -> int:
        """The round that comes next."""
        return int(self._group["round"])

    def complete(self) -> None:
        """Does what an update has left to be done, before somebody reads what it moves."""

    def _check_intact(self) -> None:
        if not self._intact:
            raise RuntimeError(
                f"the update of round {self.round} was broken off, so x and H are of no round: go on from a checkpoint"
            )
