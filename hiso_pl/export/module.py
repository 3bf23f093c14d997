"""The run's module, built anew, and the values that a checkpoint has for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hiso_pl.errors import one_line
from hiso_pl.models import TaskModel, TransformersModel
from hiso_pl.module import FederatedModule
from hiso_pl.run import checkpoint
from hiso_pl.run.learning_rate import SchedulerCallable
from hiso_pl.stages import Stages
from hiso_pl.zeroth_order.interfaces import MethodBase
from hiso_pl.zeroth_order.method import Method


class ExportedModule(FederatedModule):
    """The run's module, which also keeps its frozen weights as they were loaded, whatever the run computed in.

    Args:
        network: The network with its task.
        method: What a round computed.
        lr_scheduler: How the learning rate follows the rounds.
        seed: The run's seed.
        stages: Where its weights live; those of a run whose stages were on ranks are all here.
    """

    def __init__(
        self,
        network: TaskModel,
        method: MethodBase = Method(),  # noqa: B008 - it is frozen
        lr_scheduler: SchedulerCallable | None = None,
        seed: int = 0,
        stages: Stages | None = None,
    ) -> None:
        loaded = [p.data for p in network.parameters()]
        here = stages if stages is not None and stages.on == "host" else None
        super().__init__(network, method, lr_scheduler, seed, here)
        self._loaded = loaded

    def restore(self, trained: Mapping[str, Tensor]) -> None:
        """Puts trained values in place, and the frozen weights back to the type they were loaded in."""
        for p, values in zip(self.network.parameters(), self._loaded, strict=True):
            p.data = values
        with torch.no_grad():
            for name, p in self.trainable():
                p.copy_(trained[name])


def exportable(network: TaskModel) -> TransformersModel:
    """The network, if all it trains is in a transformers model.

    Raises:
        ValueError: If not.
    """
    what = "only hiso_pl.models.CausalLM, SequenceClassifier and ImageClassifier can be exported"
    if not isinstance(network, TransformersModel):
        raise ValueError(f"model.network={type(network).__name__} is no transformers model: {what}")
    for name, p in network.named_parameters():
        if p.requires_grad and not name.startswith("model."):
            raise ValueError(f"model.network={type(network).__name__} trains {name!r} outside its model: {what}")
    return network


def trained_tensors(content: Mapping[str, Any], module: FederatedModule) -> dict[str, Tensor]:
    """The trained tensors of a checkpoint, by the names of the network's parameters.

    Raises:
        ValueError: If the checkpoint is of another model, or damaged.
    """
    try:
        checkpoint.compare(content, module.facts(), resuming=False)
        state = content["state_dict"]
        found = {name: state[f"network.{name}"] for name, _ in module.trainable()}
    except (AttributeError, KeyError, TypeError) as error:  # the file decides what is where
        raise ValueError(f"the checkpoint is damaged: {one_line(error)}") from error
    for name, p in module.trainable():
        tensor = found[name]
        if not isinstance(tensor, Tensor) or (tensor.shape, tensor.dtype, tensor.layout, tensor.device.type) != (
            p.shape,
            torch.float32,
            torch.strided,
            "cpu",
        ):
            raise ValueError(f"the checkpoint is damaged: {name!r} must be an fp32 tensor of shape {list(p.shape)}")
    return found
